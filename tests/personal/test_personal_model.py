"""A model read back from its folder: next words against plain formulas, streams against whole texts, damage and forgery."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from adapted_cases import CLIENTS, LABELS, Attention, config, simulated, texts_of, write_jsonl
from algorithm_cases import CASES
from comparisons import plain_fixture  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from run_cases import POPULATION, SMALL
from safetensors.torch import load_file, save_file

import flow
from flow import UserError
from flow.algorithms.shared.memory import NONE, Memory
from flow.model.language_model import LanguageModel
from flow.personal.stream import Steps, whole
from flow.storage import files
from flow.training.messages import Mixture, Personal

pytestmark = pytest.mark.usefixtures("plain")
TEXT = "the quick brown fox"


@pytest.fixture(scope="module", name="adapted")
def adapted_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapted client of Flow with a memory, whose folder has a file of every kind; copy it before changing it."""
    place = tmp_path_factory.mktemp("adapted")
    path = write_jsonl(place / "posts.jsonl", CLIENTS)
    simulated(place / "run", config(path, "flow", memory=True))
    return flow.adapt(place / "run", place / "me", texts=texts_of(3, 30), progress=False).folder


def adapted_case(name: str, place: Path, **sizes: Any) -> flow.PersonalModel:
    """A client of a case in float64."""
    run = replace(SMALL, algorithm=CASES[name], rounds=2, evaluate_every=0, model=replace(SMALL.model, **sizes))
    simulated(place / "run", run, population=POPULATION)
    return flow.adapt(place / "run", place / "me", client="client 2", population=POPULATION, progress=False)


ROUTES = {"fedavgft": "global", "flow": "mixture", "flow, client": "local", "flow, workshop": "mixture"}


@pytest.mark.parametrize("name", ROUTES)
def test_next_tokens_are_those_of_the_formulas(name: str, tmp_path: Path) -> None:
    """One network: the parameters in personal.safetensors, put into the plain equations of tests/oracles."""
    me = adapted_case(name, tmp_path, num_layers=2)
    parameters = load_file(tmp_path / "me" / "personal.safetensors")
    settings = me.settings
    assert settings["predicts"]["route"] == ROUTES[name]
    numbers = [2, 5, 6, 7, 8, 4]
    tokens = np.array([*numbers, 0], dtype=np.int32)
    hard = settings["predicts"]["routing"] == "hard"
    logits, routings = oracles.run(parameters, tokens, len(numbers), ROUTES[name], settings["model"]["temperature"], hard=hard)
    stream, prediction = me.stream(), me.predict("bcde" + "a", top=9)[0]
    for step, number in enumerate(numbers):
        after = stream.feed(number)
        torch.testing.assert_close(after.probabilities, logits[step].softmax(0), rtol=1e-12, atol=1e-14)
        if ROUTES[name] == "mixture":
            layers = 2
            q = torch.stack([routing[step, 1] for routing in routings[:layers]]).mean()
            assert after.local_weight == pytest.approx(float(q), abs=1e-12)
    expected = {me.kept.cutting.vocabulary.tokens[n]: float(p) for n, p in enumerate(logits[-1].softmax(0))}
    assert {token.text: token.probability for token in prediction.following} == pytest.approx(expected, abs=1e-12)
    listed = [token.probability for token in prediction.following]
    assert listed == sorted(listed, reverse=True)


@pytest.mark.parametrize("name", CASES)
def test_a_stream_says_what_the_evaluation_says_of_a_whole_text(name: str, tmp_path: Path) -> None:
    """The losses of texts, token by token, sum up to what the run's own way of predicting gives; as do those in one pass."""
    me = adapted_case(name, tmp_path)
    client = next(client for client in POPULATION.clients if client.id == "client 2")
    nats, counted = np.zeros(2), 0
    for row, length in zip(client.test.tokens.tolist(), client.test.lengths.tolist(), strict=True):
        stream = me.stream()
        p, local_weights = whole(me.kept.model, me.kept.personal, row[:length])
        for step in range(length):
            after, target = stream.feed(row[step]), row[step + 1]
            torch.testing.assert_close(after.probabilities, p[step], rtol=1e-9, atol=1e-12)
            if after.local_weight is not None:
                assert after.local_weight == pytest.approx(float(local_weights[step]), abs=1e-9)
            if me.kept.cutting.vocabulary.scored[target]:
                nats -= np.log([float(after.probabilities[target]), float(p[step, target])])
                counted += 1
    scores = me.score_windows(client.test)
    assert counted == scores.tokens
    np.testing.assert_allclose(nats / counted, scores.loss, rtol=1e-6)


def test_a_module_of_ones_own_reads_as_many_tokens_as_it_was_trained_on(tmp_path: Path) -> None:
    torch.manual_seed(5)
    own = flow.TorchModel(Attention, "head", dtype="float64")
    run = replace(SMALL, algorithm=CASES["fedavg"], rounds=1, evaluate_every=0, model=own)
    simulated(tmp_path / "run", run, population=POPULATION)
    me = flow.adapt(tmp_path / "run", tmp_path / "me", client="client 2", population=POPULATION, progress=False)
    module = Attention(oracles.VOCABULARY).double()
    parameters = load_file(tmp_path / "me" / "personal.safetensors")
    module.load_state_dict({name.partition(".model/")[2].replace("/", "."): tensor for name, tensor in parameters.items()})
    numbers = [2, 5, 6, 7, 8, 4, 5, 5, 8]
    stream = me.stream()
    for step, number in enumerate(numbers):
        read = numbers[max(0, step - 5) : step + 1]
        with torch.no_grad():
            expected = module(torch.tensor([read]))[0, -1].softmax(0)
        torch.testing.assert_close(stream.feed(number).probabilities, expected, rtol=1e-9, atol=1e-12)
    text = "bcdeabbe"
    assert me.predict(text)[0].following[0].probability == pytest.approx(float(expected.max()), abs=1e-9)
    assert me.predict(text)[0].local_weight is None


def test_completions_go_on_by_the_most_likely_word_that_can_be_written(adapted: Path) -> None:
    me = flow.load(adapted)
    completion = me.complete(TEXT, 7)
    tokens, text = me.kept.cutting.vocabulary.tokens, TEXT
    for token in completion.tokens:
        following = {own.text: own for own in me.predict(text, top=len(tokens))[0].following}
        best = max((own for own in following.values() if own.text not in tokens[:3]), key=lambda own: own.probability)
        assert (best.text, token.text) == (token.text, token.text)
        assert token.probability == pytest.approx(best.probability, rel=1e-4)
        assert token.local_weight == pytest.approx(best.local_weight, abs=1e-5)
        text += " " + token.text
    assert completion.text == text
    assert len(completion.tokens) == 7 or max(me.predict(text)[0].following, key=lambda t: t.probability).text == "<eos>"
    assert [token.text for token in me.trace(TEXT)] == TEXT.split()
    traced = me.trace(TEXT)[2]
    after = me.predict("the quick", top=len(tokens))[0]
    assert traced.probability == pytest.approx(next(t.probability for t in after.following if t.text == "brown"), rel=1e-4)


def test_a_classifier_says_classes(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "posts.jsonl", CLIENTS, LABELS)
    simulated(tmp_path / "run", config(path, "fedavgft", label_column="mood"))
    me = flow.adapt(tmp_path / "run", tmp_path / "me", texts=path, client="c03", label_column="mood", progress=False)
    (prediction,) = me.predict(TEXT)
    assert {token.text for token in prediction.following} == {"glad", "sad"}
    assert sum(token.probability for token in prediction.following) == pytest.approx(1, abs=1e-5)
    scores = me.score(CLIENTS["c03"], LABELS["c03"])
    guessed = [me.predict(text, top=1)[0].following[0].text for text in CLIENTS["c03"]]
    assert scores.tokens == len(guessed)
    assert scores.accuracy == pytest.approx(np.mean([a == b for a, b in zip(guessed, LABELS["c03"], strict=True)]))
    for call, message in (
        (lambda: me.complete(TEXT), "classifies texts; call predict"),
        (lambda: me.score(["a"]), "needs as many labels as texts, 1, got none"),
        (lambda: me.score(["a"], ["angry"]), "label='angry' is no class of the run, whose classes are 'glad', 'sad'"),
        (lambda: me.predict("  "), "has no token, so nothing says its class"),
    ):
        with pytest.raises(UserError, match=message):
            call()
    with pytest.raises(UserError, match="the texts have no classes; name their column with label_column"):
        flow.adapt(tmp_path / "run", tmp_path / "other", texts=["a"] * 6, progress=False)


def test_tokens_of_a_file_and_characters_are_joined_as_they_were_cut(tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    made = library.Tokenizer(library.models.BPE(unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = library.pre_tokenizers.ByteLevel(), library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(vocab_size=60, special_tokens=["[UNK]"])
    made.train_from_iterator((text for own in CLIENTS.values() for text in own), trainer)
    made.save(str(tmp_path / "own.json"))
    path = write_jsonl(tmp_path / "posts.jsonl", CLIENTS)
    for name in (str(tmp_path / "own.json"), "characters"):
        place = tmp_path / Path(name).stem
        simulated(place / "run", config(path, "fedavgft", tokenizer=name))
        me = flow.adapt(place / "run", place / "me", texts=CLIENTS["c05"], progress=False)
        cutting = me.kept.cutting
        (numbers,) = cutting.tokens(["the lazy dog"])
        assert cutting.joined(numbers.tolist()).strip() == "the lazy dog"
        completion = me.complete("the lazy d", 4)
        assert completion.text.startswith("the lazy d")
        assert len(completion.text) > len("the lazy d") or not completion.tokens
    (tmp_path / "own.json").unlink()
    assert flow.load(tmp_path / "own" / "me").predict("the")[0].following  # the folder has its own copy


def test_a_text_is_taken_as_text_and_mistakes_are_named(adapted: Path) -> None:
    me = flow.load(adapted)
    assert me.predict(TEXT) == me.predict([TEXT])
    assert len(me.predict(["a", "the", ""])) == 3
    for call, message in (
        (lambda: me.predict(TEXT, top=0), "top must be a finite number at least 1, got 0"),
        (lambda: me.complete(TEXT, 0), "tokens must be a finite number from 1 to 10000, got 0"),
        (lambda: me.score(TEXT), "texts must be a list of texts, got one string; write"),
        (lambda: me.score(["zzz"]), "so there is nothing to score; give other texts"),
        (lambda: me.score(["a"], ["b"]), "predicts the next token and needs no labels"),
        (lambda: me.stream().feed(10**6), "token=1000000 must be from 0 to"),
        (lambda: me.predict("the " * 5000), "a text of 5001 tokens is longer than 4096"),
    ):
        with pytest.raises(UserError, match=message):
            call()


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_changed_or_missing_file_is_refused(adapted: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in adapted.iterdir())
    assert names == ["personal.safetensors", "report.json", "report.md", "settings.json", "vocabulary.json"]
    for name in names:
        content = (adapted / name).read_bytes()
        for place in (0, len(content) // 2, len(content) - 2):
            copy = shutil.copytree(adapted, tmp_path / f"{name} {place}")
            (copy / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(UserError, match=f"{name}: .*(put the folder back|adapt the client again)"):
                flow.load(copy)
        copy = shutil.copytree(adapted, tmp_path / f"{name} missing")
        (copy / name).unlink()
        with pytest.raises(UserError, match=r"is no adapted folder|cannot be read"):
            flow.load(copy)


def forge(folder: Path, change: Any) -> None:
    """Change settings and tensors of a folder and put right checksums on them."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "personal.safetensors")
    change(settings, tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "personal.safetensors")
    for name in settings["files"]:
        if (folder / name).is_file():
            settings["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    files.write_json(folder / "settings.json", files.with_checksum(settings))


FORGERIES: dict[str, Any] = {
    "another size": lambda s, t: s["model"].update(hidden_size=7),
    "an unknown size": lambda s, t: s["model"].update(width=7),
    "no tensor": lambda s, t: t.pop("head.weight"),
    "another shape": lambda s, t: t.update({"head.bias": torch.zeros(3)}),
    "another tensor": lambda s, t: t.update({"other": torch.zeros(3)}),
    "another type": lambda s, t: t.update({"head.bias": t["head.bias"].double()}),
    "an unknown route": lambda s, t: s["predicts"].update(route="both"),
    "no gate": lambda s, t: [t.pop(name) for name in list(t) if name.startswith("way/gate")],
    "words out of range": lambda s, t: t.update({"way/memory/words": t["way/memory/words"] + 1000}),
    "counts below one": lambda s, t: t.update({"way/memory/two/counts": t["way/memory/two/counts"] * 0}),
    "keys out of range": lambda s, t: t.update({"way/memory/three/keys": t["way/memory/three/keys"] + 10**9}),
    "a path": lambda s, t: s["files"].update({"../posts.jsonl": "0"}),
    "another format": lambda s, t: s.update(format=99),
    "an unknown algorithm": lambda s, t: s["algorithm"].update(name="nobody"),
    "a negative length": lambda s, t: s["texts"].update(sequence_length="long"),
    "no settings of texts": lambda s, t: s.pop("texts"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_forged_content_with_right_checksums_is_refused(what: str, adapted: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(adapted, tmp_path / "copy")
    forge(copy, FORGERIES[what])
    with pytest.raises(UserError):
        flow.load(copy)


def test_an_unchanged_folder_that_is_written_again_is_read(adapted: Path, tmp_path: Path) -> None:
    """So that what is refused above is refused for what was changed."""
    copy = shutil.copytree(adapted, tmp_path / "copy")
    forge(copy, lambda s, t: None)
    assert flow.load(copy).predict(TEXT) == flow.load(adapted).predict(TEXT)


# --- parts ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 7), min_size=2, max_size=6), max_size=6), st.integers(1, 40))
def test_a_memory_comes_back_from_its_counts(texts: list[list[int]], most: int) -> None:
    """Compared with one that counts the texts again: every chance and every vote."""
    table = np.zeros((len(texts), 7), dtype=np.int64)
    for row, text in zip(table, texts, strict=True):
        row[: len(text)] = text
    lengths = np.array([len(text) - 1 for text in texts], dtype=np.int64)
    counted = Memory(table, lengths, 9, most)
    again = Memory.restored(counted.stored(True), 9)
    second, first, target = (part.ravel() for part in np.meshgrid([NONE, *range(9)], range(9), range(9)))
    np.testing.assert_array_equal(again.chance(second, first, target), counted.chance(second, first, target))
    np.testing.assert_array_equal(again.often(first), counted.often(first))
    for own, other in zip(again.after(second, first), counted.after(second, first), strict=True):
        np.testing.assert_array_equal(own, other)
    np.testing.assert_array_equal(Memory.restored(counted.stored(False), 9).often(first), counted.often(first))


def test_every_way_of_predicting_is_one_that_can_be_stored() -> None:
    """An algorithm whose answers are no Mixture has no `restored`, and the other way round, by the tests of all cases above."""
    from flow.algorithms import REGISTRY

    assert {name for name, own in REGISTRY.items() if own.restored} == {"flow", "ngram", "knnper", "privategate"}
    assert not isinstance(lambda routing: None, Mixture)


def test_a_token_takes_less_than_a_millisecond() -> None:
    """256 units, routed, 2,000 words, one core; the best of several times, as other processes may disturb one."""
    model = LanguageModel(2000, 96, 256, generator=torch.Generator().manual_seed(0))
    parameters = {name: parameter.detach().unsqueeze(0) for name, parameter in model.named_parameters()}
    steps = Steps(model, Personal(parameters, "mixture"))
    state, token = steps.start(), torch.tensor([5])
    times = []
    with torch.inference_mode():
        for _ in range(300):
            begin = time.perf_counter()
            _, state, _ = steps.step(token, token, state)
            times.append(time.perf_counter() - begin)
    assert sorted(times)[10] < 1e-3
