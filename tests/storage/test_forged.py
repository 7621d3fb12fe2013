"""Files that are whole, with a right checksum, and not what the run writes: refused before anything is touched."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from comparisons import tree
from optional import present
from run_cases import KEPT, POPULATION, run
from torch import Tensor

from flow import Config, UserError, resume
from flow.model.parameters import Tensors
from flow.server.options import ServerOptions
from flow.simulation import loop
from flow.storage import files
from flow.storage.client_states import ClientStates

Change = Callable[[Tensors], Tensors]
ADAM: Config[Any] = replace(KEPT, rounds=3, checkpoint_every=1, client_memory=64, server=ServerOptions(server="adam"))


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_write_report", lambda folder: None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with what clients keep on disk, and one with all of it and the moments of Adam in its checkpoints."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "_write_report", lambda folder: None)
        place = tmp_path_factory.mktemp("runs")
        return {name: present(run(config, place / name).folder) for name, config in (("disk", KEPT), ("adam", ADAM))}


def forged(path: Path, change: Change) -> None:
    """Write a file of tensors anew after a change of them, with a right checksum."""
    labels = files.read_labels(path, "")
    tensors, _ = files.read_tensors(path, labels.run, str)
    files.write_tensors(path, change({name: tensor.clone() for name, tensor in tensors.items()}), *labels)


def dropped(name: str) -> Change:
    return lambda own: {other: tensor for other, tensor in own.items() if other != name}


def put(name: str, make: Callable[[Tensor], Tensor]) -> Change:
    return lambda own: own | {name: make(own.get(name, torch.zeros(0)))}


CHECKPOINTS = {
    "other dtype": ("adam", put("head.bias", lambda t: t.float()), r"its 'head.bias' is float32 \[\d+\], not float64 \[\d+\]"),
    "missing": ("adam", dropped("head.bias"), "it has no 'head.bias'"),
    "extra": ("adam", put("other", lambda _: torch.zeros(2)), "it has 'other', which is unknown"),
    "misshapen": (
        "adam",
        put("gru.weight_hh_l0", lambda t: t.T),
        r"its 'gru.weight_hh_l0' is float64 \[4, 12\], not float64 \[12, 4\]",
    ),
    "not finite": ("adam", put("head.bias", lambda t: t * torch.nan), "it holds numbers that are not finite"),
    "other moment": ("adam", put("moments:m/x", lambda _: torch.zeros(2)), "among its moments it has 'm/x', which is unknown"),
    "moment in float32": (
        "adam",
        put("moments:v/head.bias", lambda t: t.float()),
        r"among its moments its 'v/head.bias' is float32",
    ),
    "half of the second moments": ("adam", dropped("moments:v/head.bias"), "among its moments it has no 'v/head.bias'"),
    "moments of another server": (
        "disk",
        lambda own: own | {f"moments:{moment}/head.bias": own["head.bias"].double().clone() for moment in "mv"},
        "among its moments it has 'v/head.bias', which this run's server does not keep",
    ),
    "half of the moments": ("adam", dropped("moments:m/head.bias"), "among its moments it has no 'm/head.bias'"),
    "no clients": ("adam", dropped("clients:rows"), "it has no 'rows'"),
    "a client twice": ("adam", put("clients:rows", lambda t: t * 0), "its 'rows' are not clients of the run"),
    "unknown clients": ("adam", put("clients:rows", lambda t: t + 1000), "its 'rows' are not clients of the run"),
    "negative clients": ("disk", put("clients:rows", lambda t: t - 1000), "its 'rows' are not clients of the run"),
    "clients in float": ("disk", put("clients:rows", lambda t: t.double()), r"its 'rows' is float64 \[\d\], not int64 \[\d\]"),
    "other clients' states": (
        "adam",
        put("clients:kept/head.bias", lambda t: t[:1]),
        r"its 'kept/head.bias' is float64 \[1, \d+\], not",
    ),
    "later rounds": ("disk", put("clients:rounds", lambda t: t + 6), "its 'rounds' are not from 1 to 6"),
    "fewer rounds": ("disk", put("clients:rounds", lambda t: t[:1]), r"its 'rounds' is int64 \[1\], not int64 \[\d\]"),
    "negative size": ("disk", put("clients:row_bytes", lambda t: t - 10**6), "its 'row_bytes' are -998560 and must be 1440"),
    "huge size": ("disk", put("clients:row_bytes", lambda t: t + 2**62), "and must be 1440"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_with_other_tensors_is_refused_and_nothing_is_touched(
    case: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    which, change, message = CHECKPOINTS[case]
    folder = shutil.copytree(runs[which], tmp_path / "run")
    path = max((folder / "checkpoints").iterdir())
    forged(path, change)
    before = tree(folder)
    with pytest.raises(
        UserError, match=rf"^{re.escape(str(path))}: not a checkpoint of this run, .*{message}.*; put the right"
    ):
        resume(folder, population=POPULATION, progress=False)
    assert tree(folder) == before


def test_without_the_forged_checkpoint_the_run_goes_on_from_the_one_before(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs["adam"], tmp_path / "run")
    path = max((folder / "checkpoints").iterdir())
    content = path.read_bytes()
    forged(path, dropped("head.bias"))
    path.rename(tmp_path / "aside")
    resume(folder, population=POPULATION, progress=False)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("head.bias", lambda t: t.float()), r"its 'head.bias' is float32 \[\d+\], not float64 \[\d+\]"),
        (put("head.bias", lambda t: t[None]), r"its 'head.bias' is float64 \[1, \d+\], not float64 \[\d+\]"),
        (dropped("head.bias"), "it has no 'head.bias'"),
        (put("other", lambda _: torch.zeros(1)), "it has 'other', which is unknown"),
    ],
    ids=["dtype", "shape", "missing", "extra"],
)
def test_a_client_state_with_other_tensors_is_refused_and_nothing_is_touched(
    change: Change, message: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(runs["disk"], tmp_path / "run")
    path = max((folder / "clients").glob("*/*-000006.safetensors"))
    forged(path, change)
    before = tree(folder)
    with pytest.raises(UserError, match=rf"{path.name}: not what a client of this run keeps, {message}; put the file"):
        resume(folder, population=POPULATION, progress=False)
    assert tree(folder) == before


def test_states_in_memory_where_clients_keep_nothing_are_refused() -> None:
    states = ClientStates(like={})
    assert states.wrong({}, 3) == ""
    saved = {"rows": torch.tensor([0]), "kept/a": torch.zeros(1, 2)}
    assert states.wrong(saved, 3) == "it has 'kept/a', which is unknown"


@pytest.mark.parametrize("name", ["checkpoints", "clients"])
def test_what_is_no_folder_in_the_place_of_one_is_refused_and_nothing_is_touched(
    name: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(runs["disk"], tmp_path / "run")
    shutil.rmtree(folder / name)
    (folder / name).symlink_to("nothing")
    before = tree(folder)
    with pytest.raises(UserError, match=rf"run/{name}: not a folder; move it away"):
        resume(folder, population=POPULATION, progress=False)
    assert tree(folder) == before
