"""What clients keep: in memory and on disk the same, never ahead of the round, never ahead of the checkpoint."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from flow import UserError
from flow.model.parameters import Rows, Tensors
from flow.storage.client_states import ClientStates


def rows(*numbers: int) -> Rows:
    return np.array(numbers, dtype=np.int64)


def tensors(*values: int) -> Tensors:
    return {"a/b": torch.tensor([[v, v + 0.5] for v in values]), "n": torch.tensor([float(v) for v in values])}


def values(states: ClientStates, *numbers: int) -> list[float]:
    return states.read(rows(*numbers))["n"].tolist()


@pytest.fixture(params=["memory", "disk"])
def states(request: pytest.FixtureRequest, tmp_path: Path) -> ClientStates:
    return ClientStates(tmp_path / "clients" if request.param == "disk" else None, "run")


def test_rows_become_valid_when_the_round_is_complete(states: ClientStates) -> None:
    assert states.rows().tolist() == [] and states.nbytes == 0
    states.write(rows(4, 1), tensors(40, 10), 1)
    assert not states.known(rows(1, 4)).any()
    states.commit(1)
    assert states.known(rows(4, 2, 1, -1)).tolist() == [True, False, True, False]
    states.write(rows(4), tensors(41), 2)
    assert values(states, 4, 1) == [40, 10]
    states.commit(2)
    assert values(states, 1, 4) == [10, 41]
    assert states.rows().tolist() == [1, 4]
    assert states.nbytes == 2 * 3 * 4
    assert states.read(rows(4))["a/b"].tolist() == [[41, 41.5]]


def test_a_new_client_starts_from_fresh_and_fresh_is_left_alone(states: ClientStates) -> None:
    states.write(rows(2), tensors(20), 1)
    states.commit(1)
    fresh = {name: tensor[:1].expand(3, *tensor.shape[1:]) for name, tensor in tensors(7).items()}
    own = states.of(rows(0, 2, -1), fresh)
    assert own.known.tolist() == [False, True, False]
    assert own.tensors["n"].tolist() == [7, 20, 7]
    assert own.tensors["a/b"].tolist() == [[7, 7.5], [20, 20.5], [7, 7.5]]
    assert fresh["n"].tolist() == [7, 7, 7]
    assert states.of(rows(0, 1), {}).tensors == {}


def test_what_was_written_can_be_changed_by_its_owner(states: ClientStates) -> None:
    own = tensors(5)
    states.write(rows(0), own, 1)
    own["n"].zero_()
    states.commit(1)
    assert values(states, 0) == [5]


def grown(states: ClientStates, folder: Path, digest: str = "run") -> dict[int, Tensors]:
    """Rounds 1 to 6, checkpoints after 2, 4 and 6 of which the last two are kept; then round 7, half done."""
    saved = {}
    for round, members in ((1, (0, 1)), (2, (1, 2)), (3, (0,)), (4, (2,)), (5, (2, 3)), (6, (2,)), (7, (0, 4))):
        states.write(rows(*members), tensors(*(100 * round + m for m in members)), round)
        if round == 7:
            break
        states.commit(round)
        if round % 2 == 0:
            saved[round] = states.save()
            states.forget(sorted(saved)[-2:])
    return saved


WHERE = {2: [100, 201, 202], 4: [300, 201, 402], 6: [300, 201, 602, 503]}


@pytest.mark.parametrize("checkpoint", [4, 6])
def test_going_back_to_a_checkpoint_gives_its_states(states: ClientStates, checkpoint: int, tmp_path: Path) -> None:
    saved = grown(states, tmp_path)
    folder = states._folder
    other = ClientStates(folder, "run")
    other.restore(saved[checkpoint], checkpoint)
    known = other.rows().tolist()
    assert known == list(range(len(WHERE[checkpoint]))) and values(other, *known) == WHERE[checkpoint]
    assert other.nbytes == len(known) * 12
    if folder is not None:
        left = sorted(path.stem for path in folder.glob("*/*"))
        assert all(int(name.split("-")[1]) <= checkpoint for name in left)


def test_going_back_to_the_start_forgets_everything(states: ClientStates, tmp_path: Path) -> None:
    grown(states, tmp_path)
    other = ClientStates(states._folder, "run")
    other.restore({}, 0)
    assert not other.rows().size and not list(tmp_path.glob("clients/*/*"))


def test_files_go_when_no_kept_checkpoint_counts_on_them(tmp_path: Path) -> None:
    states = ClientStates(tmp_path, "run")
    grown(states, tmp_path)
    left = sorted((int(r), int(n)) for r, n in (path.stem.split("-") for path in tmp_path.glob("*/*")))
    # checkpoints 4 and 6: client 0 of round 3, 1 of 2, 2 of 4 and 6 (not 5), 3 of 5; and what round 7 had written
    assert left == [(0, 3), (0, 7), (1, 2), (2, 4), (2, 6), (3, 5), (4, 7)]


def test_missing_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    states = ClientStates(tmp_path, "run")
    saved = grown(states, tmp_path)[6]
    path = tmp_path / "0000" / "0000002-000006.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"0000002-000006\.safetensors: damaged.*put the file back from a copy, or start"):
        states.read(rows(2))
    path.write_bytes(content[:-4])
    with pytest.raises(UserError, match=r"0000002-000006\.safetensors: not a whole file of tensors"):
        states.read(rows(2))
    path.unlink()
    with pytest.raises(UserError, match=r"0000002-000006\.safetensors: missing; put the file back"):
        ClientStates(tmp_path, "run").restore(saved, 6)
    before = sorted(tmp_path.glob("*/*"))
    other = ClientStates(tmp_path, "another run")
    with pytest.raises(UserError, match="another configuration or other data"):
        other.restore({"rows": torch.tensor([0]), "rounds": torch.tensor([3]), "row_bytes": torch.tensor(12)}, 6)
    assert sorted(tmp_path.glob("*/*")) == before


def test_a_file_that_cannot_be_written_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    states = ClientStates(tmp_path, "run")
    states.write(rows(0), tensors(1), 1)
    states.commit(1)

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            states.write(rows(0), tensors(2), 2)
    assert values(states, 0) == [1] and len(list(tmp_path.glob("*/*"))) == 1


def test_many_clients_share_folders(tmp_path: Path) -> None:
    states = ClientStates(tmp_path, "run")
    states.write(rows(7, 999, 1000, 342_476), tensors(1, 2, 3, 4), 1)
    states.commit(1)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")) == [
        "0000/0000007-000001.safetensors",
        "0000/0000999-000001.safetensors",
        "0001/0001000-000001.safetensors",
        "0342/0342476-000001.safetensors",
    ]
    assert values(states, 342_476, 7) == [4, 1]
