"""`flow data`: what it says of a data set, compared with plain counts."""

import math
import random
import re
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_cases import write_jsonl

from flow.cli.data import headroom
from flow.cli.main import main
from flow.data import DataOptions, description, load, opened

WORDS = ["red", "blue", "green", "grey", "pink", "zoë"]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(3)
    lines = []
    for n in range(30):
        texts = [" ".join(draw.choices(WORDS[n % 3 :], k=draw.randrange(1, 12))) for _ in range(n % 7)]
        texts += texts[:1]
        lines.append({"id": f"c{n}", "group": f"g{n % 2}", "split": "heldout" if n > 26 else "train", "texts": texts})
    lines[1]["texts"] = ["<b>red & blue</b> " + "x" * 500, "second text"]
    write_jsonl(tmp_path / "mine.jsonl", lines)
    return lines


def test_sizes_are_those_of_plain_counts(mine, monkeypatch):
    options = DataOptions(data="mine.jsonl", vocabulary_size=4, sequence_length=3, oov_buckets=2)
    population = load(options)
    found = description.sizes(population)
    words = {line["id"]: re.findall(r"\w+|[^\w\s]", " ".join(line["texts"]).lower()) for line in mine}
    known = set(population.vocabulary.tokens)
    total = sum(map(len, words.values()))
    assert (found.clients, found.held_out, found.texts) == (30, 3, sum(len(line["texts"]) for line in mine))
    assert found.tokens == total
    assert found.unknown == sum(word not in known for own in words.values() for word in own) / total
    assert found.texts_of_client == tuple(np.quantile([len(line["texts"]) for line in mine], [0.1, 0.5, 0.9, 1]))
    assert found.tokens_of_client == tuple(np.quantile([len(own) for own in words.values()], [0.1, 0.5, 0.9, 1]))
    ids = [client.id for client in population.clients]
    said = description.texts(opened(options), ids, 40)
    assert said.looked_at == found.texts and said.clients == sum(bool(line["texts"]) for line in mine) == 25
    assert len({sample.client for sample in said.samples[:25]}) == 25 and len(said.samples) == 40
    near = 0
    for line in mine:
        sets = [{tuple(w[i : i + 3]) for i in range(len(w) - 2)} or {tuple(w)} for w in (t.split() for t in line["texts"])]
        near += sum(any(len(a & b) / len(a | b) >= 0.5 for b in sets[:place]) for place, a in enumerate(sets))
    assert said.near == near > 10
    monkeypatch.setattr(description, "CLIENTS", 5)
    monkeypatch.setattr(description, "TEXTS", 2)
    assert description.texts(opened(options), ids, 0).looked_at <= 10


def witten_bell(events, size):
    """p(word | two words before) of a list of (second, first, word), by nested counts."""
    counts = {}
    for second, first, word in events:
        for context in ((), (first,), (second, first)):
            if -1 not in context:
                counts.setdefault(context, Counter())[word] += 1

    def chance(second, first, word):
        p = 1 / size
        for context in ((), (first,), (second, first)):
            own = counts.get(context) if -1 not in context else None
            if own:
                p = (own[word] + len(own) * p) / (own.total() + len(own))
        return p

    return chance


def events(side):
    for row, length in zip(side.tokens.tolist(), side.lengths.tolist(), strict=True):
        for place in range(length):
            yield (row[place - 1] if place else -1), row[place], row[place + 1]


def test_the_headroom_is_that_of_plain_n_grams(mine):
    population = load(DataOptions(data="mine.jsonl", vocabulary_size=5))
    size, scored = len(population.vocabulary), population.vocabulary.scored
    order = sorted(population.clients, key=lambda client: (zlib.crc32(client.id.encode()), client.id))
    may = [c for c in order if len(c.train) and any(scored[word] for _, _, word in events(c.test))]
    chosen = may[:6]
    names = {client.id for client in chosen}
    general = witten_bell([e for c in order if c.id not in names and not c.held_out for e in events(c.train)], size)
    bits, helped, count = np.zeros(2), 0, 0
    for client in chosen:
        personal = witten_bell(list(events(client.train)), size)
        both = [(general(*e), personal(*e)) for e in events(client.test) if scored[e[2]]]
        own = np.array([sum(-math.log(a) for a, _ in both), sum(-math.log(0.7 * a + 0.3 * b) for a, b in both)])
        bits, helped, count = bits + own, helped + (own[1] < own[0]), count + len(both)
    found = headroom(population, clients=6)
    assert np.allclose(found[:2], np.exp(bits / count), rtol=1e-12)
    assert found[2:] == (helped, 6)


def test_the_command_prints_a_table_shows_texts_and_writes_a_page(mine, capsys):
    assert main(["data", "mine.jsonl", "--sample", "30", "--folder", "page"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^clients +30, of which 3 are held out$", said, re.MULTILINE)
    for line in ("texts of a client", "words of a client", "vocabulary", "near-duplicates", "headroom"):
        assert re.search(rf"^{line} ", said, re.MULTILINE)
    assert "\nc1, g1\n<b>red & blue</b> xxx" in said and " ...\n" in said and "page: page/data.html" in said
    page = Path("page/data.html").read_text()
    assert "&lt;b&gt;red &amp; blue" in page and "30, of which 3 are held out" in page


def test_data_without_text_and_faulty_options(mine, capsys, tmp_path):
    assert main(["data", "synthetic", "--clients", "12", "--sequences", "3", "--vocabulary-size", "20"]) == 0
    assert "near-duplicates" not in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    for arguments, said in (
        (["synthetic", "--sample", "3"], "sample=3 shows texts, and data='synthetic' has none; leave it out"),
        (["mine.jsonl", "--sample", "-1"], "sample must be a finite number at least 0, got -1"),
        (["mine.jsonl", "--folder", "file"], "folder='file': the page cannot be written there"),
        (["gone.jsonl"], "data='gone.jsonl': there is no such file"),
    ):
        assert main(["data", *arguments]) == 2
        assert said in capsys.readouterr().err
