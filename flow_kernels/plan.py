"""Which backend a problem gets, and why: a pure function of the problem and of what can run here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch

from flow_kernels.backends import NAMES, load, refusal
from flow_kernels.backends.gpu import products
from flow_kernels.backends.gpu.triton.tiles import kind_of
from flow_kernels.tracing import constant_when_compiled

Refusal = Callable[[str, torch.dtype, torch.device], str]

# Fastest first, by type of device; "reference" runs everything, and is all there is on other devices.
ORDER = {"cuda": ("cuda", "triton", "reference"), "cpu": ("cpu", "reference")}


class Plan(NamedTuple):
    """The chosen backend, the reason in words, and how the backend goes about it."""

    backend: str
    reason: str
    details: str = ""
    cost: str = ""
    """What an update of local training, and a run, take on a GPU on paper; empty where nobody asked."""

    def __str__(self) -> str:
        chosen = f"{self.backend} ({self.reason})" + (f": {self.details}" if self.details else "")
        return chosen + (f"\n\n{self.cost}" if self.cost else "")


def name(dtype: torch.dtype, device: torch.device, backend: str, hidden: int) -> str:
    """The backend that :func:`choose` gives a problem, of whose sizes only H matters.

    Raises:
        RuntimeError, ValueError: as :func:`choose`.
    """
    # every call asks, so the answer is kept; torch.compile asks once and warns of what is kept
    return (_name if torch.compiler.is_compiling() or not isinstance(backend, str) else _kept_name)(
        dtype, device, backend, hidden
    )


def _name(dtype: torch.dtype, device: torch.device, backend: str, hidden: int) -> str:
    capability = capability_of(device) if device.type == "cuda" else None
    return _pick(hidden, dtype, device, capability, backend, refusal)[0]


_kept_name = functools.cache(_name)


@constant_when_compiled
def capability_of(device: torch.device) -> tuple[int, int] | None:
    """The compute capability of a CUDA device; None where there is none."""
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else None


def choose_plan(
    *,
    clients: int,
    batch: int,
    steps: int,
    inputs: int,
    hidden: int,
    dtype: torch.dtype,
    device: torch.device,
    capability: tuple[int, int] | None = None,
    backend: str = "auto",
    refusal: Refusal = refusal,
) -> Plan:
    """Choose a backend for K=clients, B=batch, T=steps, I=inputs, H=hidden, and say how it goes about it.

    Which backend depends on H alone among the sizes; the others decide how it divides the work.

    Args:
        capability: the compute capability of a CUDA device, such as (9, 0); None: not known, and nothing that depends on it
            is chosen.
        refusal: what says whether a backend can run on this machine.

    Raises:
        RuntimeError: a backend was asked for by name and cannot run this problem here. Only ``"auto"`` falls back.
        ValueError: no backend has that name.
    """
    name, reason = _pick(hidden, dtype, device, capability, backend, refusal)
    return Plan(name, reason, load(name).describe(clients, steps, batch, inputs, hidden, dtype, device))


def _pick(
    hidden: int, dtype: torch.dtype, device: torch.device, capability: tuple[int, int] | None, backend: str, refusal: Refusal
) -> tuple[str, str]:
    """Name and reason."""

    def why_not(name: str) -> str:
        return refusal(name, dtype, device) or load(name).limit(hidden, capability)

    if backend != "auto":
        if backend not in NAMES:
            names = ", ".join(map(repr, ("auto", *NAMES)))
            raise ValueError(f"backend must be one of {names}, got {backend!r}")
        if reason := why_not(backend):
            raise RuntimeError(f"backend={backend!r} cannot run here: {reason}; use backend='auto' to let it fall back")
        return backend, "asked for by name"
    skipped: list[str] = []
    for name in ORDER.get(device.type, ("reference",)):
        if reason := why_not(name):
            skipped.append(f"{name}: {reason}")
        else:
            return name, "; ".join(["the fastest that runs here", *skipped])
    raise AssertionError("the reference backend runs everything")


def explain(
    *,
    batch_size: int,
    seq_len: int,
    input_size: int,
    hidden_size: int,
    num_clients: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    capability: tuple[int, int] | None = None,
    backend: str = "auto",
    vocabulary_size: int | None = None,
    projection_size: int | None = None,
    sequences: int | None = None,
    rounds: int | None = None,
) -> Plan:
    """Which backend and plan a problem gets, and why; print it.

    With a vocabulary it also says what an update of local training of these clients costs on a GPU, and with sequences and
    rounds, how long a run of Flow's default variant takes there. That is a model on paper, of an H200; nothing was measured.

    Args:
        batch_size, seq_len, input_size, hidden_size, num_clients: B, T, I, H and K of docs/cell.md, each at least 1.
        dtype, device: of the input.
        capability: the compute capability of a CUDA device, such as (9, 0); None: the device is asked.
        backend: as for :func:`flow_kernels.routed_gru`.
        vocabulary_size, projection_size: of a language model's head, and of a linear layer before it, if there is one.
        sequences: of every client, in each of the rounds.
        rounds: of the run.

    Raises:
        RuntimeError, ValueError: as the call itself would; sizes of a model or a run that have no vocabulary.
    """
    optional = {
        "vocabulary_size": vocabulary_size,
        "projection_size": projection_size,
        "sequences": sequences,
        "rounds": rounds,
    }
    for name, given in optional.items():
        if given is not None and vocabulary_size is None:
            raise ValueError(f"{name}={given} is of a language model, which has a vocabulary; give vocabulary_size too")
    if (sequences is None) != (rounds is None):
        raise ValueError(f"sequences={sequences} and rounds={rounds} describe a run together; give both or neither")
    sizes: dict[str, int | None] = {"num_clients": num_clients, "batch_size": batch_size, "seq_len": seq_len}
    sizes |= {"input_size": input_size, "hidden_size": hidden_size, **optional}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    device = torch.device(device)
    if capability is None and device.type == "cuda":
        capability = capability_of(device)
    chosen = choose_plan(
        clients=num_clients,
        batch=batch_size,
        steps=seq_len,
        inputs=input_size,
        hidden=hidden_size,
        dtype=dtype,
        device=device,
        capability=capability,
        backend=backend,
    )
    if vocabulary_size is None:
        return chosen
    from flow_kernels.training.plan import UpdateSizes, explain_run, explain_update

    update = UpdateSizes(
        num_clients, batch_size, seq_len, input_size, hidden_size, vocabulary_size, projection_size,
        products=kind_of(dtype, products.tf32()),
    )  # fmt: skip
    cost = f"An update on an H200, on paper:\n{explain_update(update)}"
    if rounds is not None and sequences is not None:
        cost += f"\n\nA run of Flow, on paper:\n{explain_run(update, rounds=rounds, sequences=sequences)}"
    return chosen._replace(cost=cost)
