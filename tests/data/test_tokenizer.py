"""Characters as tokens, and tokens of a file of the library tokenizers, against the plainest way to the same."""

import gzip
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

import pytest
from data_cases import spelled, targets, write_jsonl
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from flow import Config, ModelOptions, UserError, resume, simulate
from flow.config import read_config
from flow.data import DataOptions, Vocabulary, load, prepared_folder
from flow.data import tokenizer as tokenizers
from flow.data.corpus import split_by_time
from flow.data.tokens import EOS, OOV, SPECIALS, is_unspaced, runs_on
from flow.evaluation.select import nobody
from flow.storage import files

CHINESE = [
    "今天天气很好我们一起去公园散步吧",
    "明天可能会下雨记得带上雨伞出门",
    "这本书讲的是一个很久以前的故事",
    "他每天早上都要喝一杯热牛奶",
]
JAPANESE = ["今日はとても天気がいいですね", "コンピューターの電源を入れてください", "明日の会議は何時からですか"]
THAI = ["วันนี้อากาศดีมากเราไปเดินเล่นกันเถอะ", "พรุ่งนี้ฝนอาจจะตกอย่าลืมร่มนะ"]
RECORDS: list[dict[str, Any]] = [
    {"id": "ann", "split": "train", "texts": ["The cat sat.", "A cat, the hat!", "café naïve", "", "the [SEP] the", "zebra"]},
    {"id": "bob", "split": "heldout", "texts": ["Unseen quokka, the cat.", "👩‍👩‍👧 e\u0301 \u3000x", "The <eos> hat"]},
    {"id": "cho", "split": "train", "texts": CHINESE},
    {"id": "dee", "split": "train", "texts": ["the hat sat on the cat " * 9, "a\nb\tand\u00a0c", "[UNK] [PAD]<pad>"]},
    {"id": "eve", "split": "train", "texts": []},
]  # fmt: skip


class Save(Protocol):
    def __call__(self, made: Tokenizer, name: str = ...) -> str: ...


SPECIAL = ["[UNK]", "[PAD]", "[SEP]"]


def word_level() -> Tokenizer:
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    made.train_from_iterator(TEXTS, trainers.WordLevelTrainer(vocab_size=14, special_tokens=SPECIAL, show_progress=False))
    made.add_tokens(["hat!"])  # not special, behind all others
    return made


def bpe() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=60, special_tokens=SPECIAL, show_progress=False))
    return made


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False)
    )
    return made


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram([("[PAD]", 0.0), ("?", 0.0), ("the", -1.0), *((letter, -3.0) for letter in " aceht.")], 1))
    made.add_special_tokens(["[PAD]"])
    return made


TEXTS = [text for record in RECORDS[:1] for text in record["texts"]]
KINDS = {kind.__name__: kind for kind in (word_level, bpe, byte_level, unigram)}
UNKNOWN = {"word_level": SPECIAL, "bpe": SPECIAL, "byte_level": ["<eos>"], "unigram": ["?", "[PAD]"]}


@pytest.fixture
def mine(tmp_path: Path) -> str:
    return write_jsonl(tmp_path / "mine.jsonl", RECORDS)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """The path of a saved tokenizer."""

    def saved(made: Tokenizer, name: str = "tokenizer.json") -> str:
        made.save(str(tmp_path / name))
        return str(tmp_path / name)

    return saved


def expected_targets(cut: Callable[[str], list[int]]) -> dict[str, list[list[int]]]:
    """By client: the targets of both sides, a text after the other, each closed by <eos>, whatever the windows are."""
    return {
        record["id"]: [[token for text in side for token in (*cut(text), EOS)] for side in split_by_time(record["texts"])]
        for record in RECORDS
    }


# --- characters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10_000, 12])
def test_characters_are_those_of_a_naive_loop(mine: str, size: int) -> None:
    population = load(DataOptions(data=mine, tokenizer="characters", vocabulary_size=size, sequence_length=7))
    counts: Counter[str] = Counter()
    for record in RECORDS:
        if record["split"] == "train":
            for text in record["texts"][: max(len(record["texts"]) * 4 // 5, 1)]:
                for character in text:
                    counts[character] += 1
    chosen = sorted(counts, key=lambda character: (-counts[character], character))[:size]
    assert population.vocabulary == Vocabulary((*SPECIALS, *chosen), "character")
    expected = expected_targets(lambda text: [4 + chosen.index(c) if c in chosen else OOV for c in text])
    for client in population.clients:
        assert [targets(client.train), targets(client.test)] == expected[client.id]
    assert population.vocabulary.encode("the\u00a0") == [4 + chosen.index(c) if c in chosen else OOV for c in "the\u00a0"]
    assert (" " in chosen) and (size < 100 or "\n" in chosen), "white space is kept"


def test_lengths_follow_the_tokenizer_and_words_are_the_default(mine: str) -> None:
    plain, words, characters = (load(DataOptions(data=mine, tokenizer=name)) for name in (None, "words", "characters"))
    assert (words.sequence_length, characters.sequence_length) == (20, 80)
    assert words.fingerprint == plain.fingerprint != characters.fingerprint and words.vocabulary == plain.vocabulary
    folders = [prepared_folder(DataOptions(data=mine, tokenizer=name)) for name in (None, "words", "characters")]
    assert folders[0] == folders[1] != folders[2], "what is the same is prepared once"


def test_the_plays_can_be_cut_into_words() -> None:
    few = DataOptions(max_clients=3)
    plain, characters, words = (load(replace(few, tokenizer=name)) for name in (None, "characters", "words"))
    assert characters.fingerprint == plain.fingerprint and (plain.sequence_length, words.sequence_length) == (80, 20)
    assert words.vocabulary.unit == "word" and {"the", "and"} <= set(words.vocabulary.tokens)
    assert prepared_folder(replace(few, tokenizer="characters")) == prepared_folder(few)


# --- a tokenizer's file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_a_file_are_those_of_the_library(mine: str, save: Save, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "BATCH", 4)
    library = KINDS[kind]()
    population = load(DataOptions(data=mine, tokenizer=save(library), sequence_length=7))
    vocabulary, unknown = population.vocabulary, UNKNOWN[kind]
    own = sorted((number, token) for token, number in library.get_vocab().items() if token not in unknown)
    assert vocabulary == Vocabulary((*SPECIALS, *(token for _, token in own)), "token")
    ids = {number: place for place, (number, _) in enumerate(own, start=len(SPECIALS))}

    def cut(text: str) -> list[int]:
        return [ids.get(number, OOV) for number in library.encode(text, add_special_tokens=False).ids]

    expected = expected_targets(cut)
    for client in population.clients:
        assert [targets(client.train), targets(client.test)] == expected[client.id]
        known = sum(target >= len(SPECIALS) for target in expected[client.id][1])
        place = [other.id for other in population.clients].index(client.id)
        assert population.table.scored[place] == known, "unknown, special and <eos> do not count"
    assert vocabulary.scored.tolist() == [False] * 4 + [True] * len(own)
    seen = [target for sides in expected.values() for side in sides for target in side]
    assert (seen.count(OOV) > 0) and seen.count(OOV) == sum(
        library.id_to_token(number) in unknown
        for record in RECORDS for text in record["texts"] for number in library.encode(text, add_special_tokens=False).ids
    )  # fmt: skip
    assert spelled(population.clients[0].train, vocabulary).count("<oov>") == expected["ann"][0].count(OOV)


def test_what_the_file_says_of_padding_cutting_and_adding_is_left_aside(mine: str, save: Save) -> None:
    plain = word_level()
    padded = word_level()
    padded.enable_padding(length=9)
    padded.enable_truncation(2)
    padded.post_processor = processors.TemplateProcessing(single="[SEP] $A [SEP]", special_tokens=[("[SEP]", 2)])
    first, second = (load(DataOptions(data=mine, tokenizer=save(made, f"{n}.json"))) for n, made in enumerate((plain, padded)))
    assert first.fingerprint == second.fingerprint and first.vocabulary == second.vocabulary


def test_the_tokenizer_itself_can_be_asked(save: Save) -> None:
    library = bpe()
    made = tokenizers.read(Path(save(library)))
    (ids,) = made.encode(["the cat"])
    assert [made.vocabulary.tokens[number] for number in ids] == library.encode("the cat").tokens
    assert made.encode([]) == [] and [len(ids) for ids in made.encode(["", " "])] == [0, 0]
    with pytest.raises(UserError, match=r"unit='token': this vocabulary does not know .* flow\.data\.tokenizer\.read\(path\)"):
        made.vocabulary.encode("the cat")


def test_a_file_is_known_by_its_content(mine: str, save: Save, tmp_path: Path) -> None:
    first = save(word_level())
    options = DataOptions(data=mine, tokenizer=first)
    folder, population = prepared_folder(options), load(options)
    (tmp_path / "elsewhere.json").write_bytes(Path(first).read_bytes())
    assert prepared_folder(replace(options, tokenizer=str(tmp_path / "elsewhere.json"))) == folder
    assert "; tokens by a tokenizer file (sha256 " in population.about
    save(bpe())
    assert prepared_folder(options) != folder and load(options).fingerprint != population.fingerprint


def test_a_run_records_where_the_file_is_and_refuses_another(
    mine: str, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(bpe())
    monkeypatch.chdir(tmp_path)
    config: Config[Any] = Config(
        data=DataOptions(data="mine.jsonl", tokenizer="tokenizer.json"), rounds=1, cohort=2, evaluate_every=0, min_texts=1,
        validation_share=0.0, model=ModelOptions(embedding_dim=3, hidden_size=4),
    )  # fmt: skip
    result = simulate(config, tmp_path / "run", progress=False)
    assert result.evaluation["unit"] == "token" and result.evaluation["summary"]["unseen"]["clients"] == 1
    assert read_config(tmp_path / "run").data.tokenizer == str(tmp_path / "tokenizer.json")
    monkeypatch.chdir("/")
    resume(tmp_path / "run", rounds=2, progress=False)
    save(word_level())
    with pytest.raises(UserError, match="was made with another configuration or other data"):
        resume(tmp_path / "run", rounds=3, progress=False)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(
        UserError, match=r"tokenizer='/.*/tokenizer\.json': there is no such file; give the path of a tokenizer"
    ):
        resume(tmp_path / "run", rounds=3, progress=False)


def test_runs_of_older_builds_were_cut_as_they_are_without_the_option(mine: str, tmp_path: Path) -> None:
    config: Config[Any] = Config(
        data=DataOptions(data=mine), rounds=1, cohort=2, evaluate_every=0, min_texts=1, validation_share=0.0,
        model=ModelOptions(embedding_dim=3, hidden_size=4),
    )  # fmt: skip
    simulate(config, tmp_path / "run", progress=False)
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    del content["data"]["tokenizer"], content[files.CHECKSUM]
    path.write_text(json.dumps(content))
    assert read_config(tmp_path / "run").data == DataOptions(data=mine)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def refused(**options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(DataOptions(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_that_are_no_tokenizer(mine: str, save: Save) -> None:
    file = save(bpe())
    for value in ("word", "", "tokenizer.txt"):
        known = "'words', 'characters', 'spaces' or the path of a tokenizer.json of the library tokenizers"
        message = f"tokenizer={value!r} must be {known}"
        assert message in refused(data=mine, tokenizer=value)
    assert "cuts text, and data='synthetic' has none; leave it out" in refused(data="synthetic", tokenizer="words")
    for option in ("vocabulary_size", "oov_buckets"):
        message = f"{option}=50 does nothing beside tokenizer={file!r}, which brings its own vocabulary; leave it out"
        assert message in refused(data=mine, tokenizer=file, **{option: 50})


def test_files_that_are_no_tokenizer(mine: str, save: Save, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    good = bpe().to_str()
    dropout = json.loads(good)
    dropout["model"]["dropout"] = 0.1
    nothing = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).to_str()
    for content, message in (
        (b"", "is no tokenizer that the installed library can read (Expecting value"),
        (good[: len(good) // 2].encode(), "is no tokenizer that the installed library can read"),
        (b"{}", "is no tokenizer that the installed library can read"),
        (b'{"a": 1, "b": 0}', "is no tokenizer that the installed library can read"),
        (b"[" * 5000, "is no tokenizer that the installed library can read"),
        (b'{"users": ["a"]}', "as its Tokenizer.save writes it"),
        (gzip.compress(good.encode()), "is no tokenizer that the installed library can read"),
        (good.replace("BPE", "BPF").encode(), "is no tokenizer that the installed library can read"),
        (json.dumps(dropout).encode(), "model.dropout=0.1 cuts the same text differently every time; set it to null"),
        (nothing.encode(), "has no token but special ones"),
    ):
        path.write_bytes(content)
        refusal = refused(data=mine, tokenizer=str(path))
        assert refusal.startswith(f"tokenizer={str(path)!r}") and message in refusal, (content[:50], refusal)
    path.unlink()
    path.mkdir()
    assert f"tokenizer={str(path)!r} is a folder; give the path of a tokenizer.json" in refused(data=mine, tokenizer=str(path))
    silent = Tokenizer(models.WordLevel({"cat": 0}, unk_token="[UNK]"))  # its unknown token has no id
    silent.pre_tokenizer = pre_tokenizers.Whitespace()
    message = refused(data=mine, tokenizer=save(silent, "silent.json"))
    assert "silent.json' cannot cut a text (WordLevel error: Missing [UNK] token from the vocabulary)" in message


def test_a_missing_library_is_named_with_its_extra(mine: str, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save(bpe())
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setenv("FLOW_CACHE", "")
    message = refused(data=mine, tokenizer=file)
    assert "needs the library tokenizers" in message and "pip install 'flow-fl[tokenizers]'" in message


def test_a_panic_of_the_library_is_a_sentence_and_an_interrupt_is_none(save: Save) -> None:
    class PanicException(BaseException):
        """As that of a library in Rust."""

    class Library:
        error: BaseException

        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> NoReturn:
            raise self.error

    library = Library()
    made = replace(tokenizers.read(Path(save(bpe()))), _library=library)
    library.error = PanicException("called `Option::unwrap()` on a `None` value")
    with pytest.raises(
        UserError, match=r"tokenizer\.json' cannot cut a text \(called `Option::unwrap\(\)` on a `None` value\)"
    ):
        made.encode(["x"])
    for library.error in (KeyboardInterrupt(), MemoryError()):
        with pytest.raises(type(library.error)):
            made.encode(["x"])


# --- text without spaces ----------------------------------------------------------------------------------------------


def test_long_runs_of_letters_are_those_of_scripts_without_spaces() -> None:
    assert all(map(runs_on, CHINESE + JAPANESE + THAI)) and runs_on("ສະບາຍດີຕອນເຊົ້າທຸກຄົນ") and runs_on("សួស្តីអ្នកទាំងអស់គ្នា")
    assert runs_on("မင်္ဂလာပါခင်ဗျားနေကောင်းလား") and runs_on("hello 今天天气很好")
    for text in (
        "",
        "a" * 99,
        "é" * 99,
        "안녕하세요 여러분",
        "今天 天气 很 好",
        "วันนี้ อากาศ ประเทศ",
        "Привет всем",
        "今天,很好。是吗？",
    ):
        assert not runs_on(text), text
    assert is_unspaced("今") and is_unspaced("x是") and not any(map(is_unspaced, ["x", "é", "안녕", "、", "7"]))


def _unspaced(path: Path, texts: list[str], english: int = 0) -> str:
    clients = [{"id": f"c{n}", "texts": texts * 3, "split": ("train", "heldout")[n % 2]} for n in range(4)]
    return write_jsonl(path, [*clients, {"id": "d", "texts": ["well said"] * english, "split": "train"}])


@pytest.mark.parametrize("texts", [CHINESE, JAPANESE, THAI], ids=["Chinese", "Japanese", "Thai"])
def test_text_without_spaces_is_noticed_once_when_it_is_cut_into_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], texts: list[str]
) -> None:
    path = _unspaced(tmp_path / f"{len(texts)}.jsonl", texts)
    count = 12 * len(texts)
    load(DataOptions(data=path))
    line = capfd.readouterr().err
    assert line.count("\n") == 1 and line.startswith(f"flow: data={path!r}: {count} of {count} texts have long runs")
    assert "--tokenizer characters, or --tokenizer FILE.json" in line
    load(DataOptions(data=path, tokenizer="characters"))
    load(DataOptions(data=_unspaced(tmp_path / "mixed.jsonl", texts, english=count)))  # not most of them
    assert not capfd.readouterr().err


def test_where_nobody_can_be_scored_the_language_is_named(tmp_path: Path) -> None:
    clients = [
        {"id": f"c{n}", "texts": [f"{text}{n}" for text in CHINESE], "split": ("train", "heldout")[n % 2]} for n in range(4)
    ]
    path = write_jsonl(tmp_path / "mine.jsonl", clients)
    population = load(DataOptions(data=path))
    sentence = nobody(population, "unseen", 1, 1)
    assert "2 with no known token to be tested on); give --tokenizer characters, as the language has no spaces" in sentence
    assert "tokenizer" not in nobody(population, "unseen", 99, 1)  # characters would not give them more texts
    assert "tokenizer" not in nobody(load(DataOptions(data=path, tokenizer="characters")), "unseen", 99, 1)
    clients = [{"id": side, "texts": ["a b", "c d"], "split": side} for side in ("train", "heldout")]
    english = write_jsonl(tmp_path / "english.jsonl", clients)
    assert "tokenizer" not in nobody(load(DataOptions(data=english)), "unseen", 99, 1)
