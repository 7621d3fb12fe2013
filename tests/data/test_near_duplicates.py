"""scripts/drop_near_duplicates.py against all pairs of texts."""

import gzip
import importlib.util
import json
import random
from pathlib import Path
from types import ModuleType

import pytest
from optional import present

SCRIPT = Path(__file__).parents[2] / "scripts" / "drop_near_duplicates.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("drop_near_duplicates", SCRIPT)
    module = importlib.util.module_from_spec(present(spec))
    present(present(spec).loader).exec_module(module)
    return module


def jaccard(a: str, b: str) -> float:
    def cut(text: str) -> set[str]:
        words = text.lower().split()
        return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)} or {" ".join(words)}

    return len(cut(a) & cut(b)) / len(cut(a) | cut(b))


def series(seed: int) -> list[str]:
    """Texts of one client, some of them an earlier one with a word changed."""
    rng = random.Random(seed)
    texts = ["", "one", "Fix it"]
    for _ in range(40):
        if rng.random() < 0.5:
            words = rng.choice(texts).split()
            if words:
                words[rng.randrange(len(words))] = rng.choice("abc")
            texts.append(" ".join(words))
        else:
            texts.append(" ".join(rng.choice("abcdefgh") for _ in range(rng.randrange(1, 14))))
    return texts


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_a_text_stays_where_no_earlier_one_is_near(script: ModuleType, threshold: float) -> None:
    dropped = 0
    for seed in range(5):
        texts = series(seed)
        expected = [n for n, text in enumerate(texts) if all(jaccard(text, other) < threshold for other in texts[:n])]
        assert script.kept(texts, threshold) == expected
        dropped += len(texts) - len(expected)
    assert dropped > 5


def test_files_keep_what_belongs_to_each_text(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clients = [
        {"id": "a", "split": "train", "texts": ["x y z w", "X y z w", "other words here"], "ts": [1, 2, 3]},
        {"id": "b", "split": "heldout", "texts": ["é", "é", "u v"]},
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl.gz"
    source.write_text("".join(json.dumps(client) + "\n" for client in clients), encoding="utf-8")
    script.main([str(source), str(target)])
    with gzip.open(target, "rt", encoding="utf-8") as file:
        a, b = map(json.loads, file)
    assert a == {"id": "a", "split": "train", "texts": ["x y z w", "other words here"], "ts": [1, 3]}
    assert b == {"id": "b", "split": "heldout", "texts": ["é", "u v"]}
    assert capsys.readouterr().out == "2 of 6 texts of 2 clients dropped; 4 kept\n"
    for wrong in ([str(source), str(target)], [str(source), str(tmp_path / "new"), "--threshold", "0"], ["none", "new"]):
        with pytest.raises(SystemExit):
            script.main(wrong)


@pytest.mark.parametrize("faulty", ["", "{", "[1]", '{"id": "a"}', '{"id": "a", "texts": ["x", 3]}'])
def test_a_faulty_line_is_named_and_leaves_no_file_behind(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], faulty: str
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": "b", "texts": ["u"]}\n' + faulty + "\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        script.main([str(source), str(target)])
    assert f"{source}, line 2: must be a client" in capsys.readouterr().err
    assert not target.exists()
