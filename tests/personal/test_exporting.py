"""Exported clients: one step in onnxruntime, and torch's own layers in a process without flow, against flow.load."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapted_cases import CLIENTS, LABELS, Attention, config, simulated, texts_of, write_jsonl
from algorithm_cases import CASES
from comparisons import plain_fixture  # noqa: F401
from run_cases import POPULATION, SMALL

import flow
from flow import UserError
from flow.cli.main import main
from flow.personal import graph
from flow.personal.exporting import export

pytestmark = pytest.mark.usefixtures("plain")
NUMBERS = [2, 5, 6, 7, 4, 8, 5, 5]


def adapted(name: str, place: Path, **sizes: Any) -> flow.PersonalModel:
    run = replace(
        SMALL, algorithm=CASES[name], rounds=1, evaluate_every=0, model=replace(SMALL.model, **{"dtype": "float32", **sizes})
    )
    simulated(place / "run", run, population=POPULATION)
    return flow.adapt(place / "run", place / "me", client="client 2", population=POPULATION, progress=False)


@pytest.mark.parametrize("name", ["fedavgft", "flow", "flow, constant", "flow, decoupled", "privategate"])
def test_a_loop_over_the_graph_gives_the_numbers_of_predict(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    me = adapted(name, tmp_path, num_layers=2, projection_dim=3)
    out = export(me, "onnx", tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == ["model.onnx", "model_card.md", "sizes.json", "vocabulary.json"]
    sizes = json.loads((out / "sizes.json").read_text(encoding="utf-8"))
    session, state = runtime.InferenceSession(out / "model.onnx"), np.zeros(sizes["state"], sizes["dtype"])
    letters = me.kept.cutting.vocabulary.tokens
    for step, number in enumerate(NUMBERS):
        log_p, state, local_weight = session.run(None, {"token": np.array([number]), "state": state})
        (prediction,) = me.predict("".join(letters[n] for n in NUMBERS[1 : step + 1]), top=len(letters))
        expected = {token.text: token.probability for token in prediction.following}
        assert dict(zip(letters, np.exp(log_p[0]).tolist(), strict=True)) == pytest.approx(expected, abs=1e-5)
        if prediction.local_weight is not None:
            assert float(local_weight[0]) == pytest.approx(prediction.local_weight, abs=1e-5)


def test_what_no_graph_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, message in (
        ("ngram", "looks n-grams of the client's texts up, which a graph does not hold; use the folder with flow.load"),
        ("knnper", "of equally near ones another library takes others"),
    ):
        with pytest.raises(UserError, match=message):
            export(adapted(name, tmp_path / name), "onnx", tmp_path / "out")
    me = adapted("fedavgft", tmp_path / "fedavgft")
    monkeypatch.setattr(graph, "PACKAGES", ("a_package_that_there_is_not",))
    with pytest.raises(UserError, match=r"needs the package a_package_that_there_is_not .*pip install 'flow-fl\[onnx\]'"):
        export(me, "onnx", tmp_path / "out")
    run = replace(SMALL, algorithm=CASES["fedavg"], rounds=1, evaluate_every=0, model=flow.TorchModel(Attention, "head"))
    simulated(tmp_path / "run", run, population=POPULATION)
    own = flow.adapt(tmp_path / "run", tmp_path / "own", client="client 2", population=POPULATION, progress=False)
    for kind in ("onnx", "torch"):
        with pytest.raises(UserError, match="a module of your own"):
            export(own, kind, tmp_path / "out")
    with pytest.raises(UserError, match="format='pickle' must be 'onnx' or 'torch'; give either"):
        export(me, "pickle", tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="exists already and is left as it is"):
        export(me, "torch", tmp_path / "run")


@pytest.mark.parametrize("name", ["fedavg", "flow, client"])
def test_torchs_own_layers_give_the_same_numbers_without_flow(name: str, tmp_path: Path) -> None:
    """model.py runs in a process that cannot import flow; by the local expert and by the global one."""
    me = adapted(name, tmp_path, num_layers=2, projection_dim=3, dtype="float64")
    out = export(me, "torch", tmp_path / "out")
    program = (
        "import sys; sys.modules['flow'] = None; import json, torch; from model import load\n"
        f"p, _ = load()(torch.tensor([{NUMBERS}])); print(json.dumps(p[0].exp().tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=out, capture_output=True, text=True, check=True)
    stream = me.stream()
    expected = [stream.feed(number).probabilities.tolist() for number in NUMBERS]
    np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=1e-9)
    with pytest.raises(UserError, match="holds one GRU and one output layer, and this client mixes several at every token"):
        export(adapted("flow", tmp_path / "routed"), "torch", tmp_path / "other")


def test_a_classifier_is_exported(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "posts.jsonl", CLIENTS, LABELS)
    simulated(tmp_path / "run", config(path, "fedavgft", label_column="mood"))
    me = flow.adapt(tmp_path / "run", tmp_path / "me", client="c03", progress=False)
    out = export(me, "torch", tmp_path / "out")
    assert json.loads((out / "sizes.json").read_text(encoding="utf-8"))["outputs"] == 2
    assert "Predicts the class of a text" in (out / "model_card.md").read_text(encoding="utf-8")


def test_the_card_says_data_algorithm_accuracy_and_privacy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "posts.jsonl", CLIENTS)
    simulated(tmp_path / "run", config(path, "fedavgft"))
    me = flow.adapt(tmp_path / "run", tmp_path / "me", texts=texts_of(3, 20), progress=False)
    out = str(tmp_path / "out")
    assert main(["export", str(tmp_path / "me"), "--format", "torch", "--out", out]) == 0
    assert capsys.readouterr().out == f"exported: {out}, see {out}/model_card.md\n"
    text = (tmp_path / "out" / "model_card.md").read_text(encoding="utf-8")
    for heading in ("## Use", "## Data", "## Algorithm", "## Accuracy", "## Privacy"):
        assert heading in text
    report = me.report
    assert f"| personal | {report['personal_loss']:.4f} | {100 * report['personal_accuracy']:.1f} |" in text
    assert "posts.jsonl (sha256" in text and "fedavgft of flow" in text and "private to its client" in text
    assert main(["export", str(tmp_path / "me"), "--format", "torch", "--out", out]) == 2
