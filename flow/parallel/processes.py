"""One run on several processes, started by torchrun: who trains whom, and what passes between them.

Every process draws the same cohorts from the same seed and trains its share of each. A round ends with one reduction, after
which all hold the same numbers and take the same server step, so nothing is ever sent out again. Only the first process
writes the run's folder.

What goes wrong in one process ends the run in all of them. A process that fails leaves word in the store through which they
found each other; one that is killed leaves none. The others notice because the connection breaks in their next exchange. Where
a machine or its network is gone, nothing says that a connection is broken, so the system's kernel asks the other side.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from flow.errors import UserError
from flow.model.parameters import Tensors

Out = TypeVar("Out")
PATIENCE = timedelta(hours=6)  # how long a process waits for the others: one may be preparing data
GRACE = 3.0  # seconds until a process that has not answered counts as gone
SILENCE = 20  # seconds after which a connection is broken whose other side's system does not answer


class Lost(UserError):
    """Another process of the run is gone.

    speaks: whether it is this process that says so, the first one that is left.
    """

    def __init__(self, message: str, speaks: bool) -> None:
        super().__init__(message)
        self.speaks = speaks


class _Broken(Exception):
    """The exchange with the others failed."""


class Stopped(Exception):
    """The launcher asks this process to end."""


class Shard(NamedTuple):
    """Who trains what of a list: by process, places in the list, ascending."""

    places: tuple[tuple[int, ...], ...]

    def counts(self) -> list[int]:
        """How many each process has."""
        return [len(own) for own in self.places]


def shard(costs: Sequence[float], processes: int) -> Shard:
    """Deal a list to processes: the next most expensive item to the one with the least to do, of equals to the first.

    The answer depends on nothing but the arguments, so that every process finds it by itself.
    """
    load, dealt = [0.0] * processes, [[] for _ in range(processes)]  # type: tuple[list[float], list[list[int]]]
    for place in sorted(range(len(costs)), key=lambda place: (-costs[place], place)):
        least = min(range(processes), key=load.__getitem__)
        dealt[least].append(place)
        load[least] += costs[place]
    return Shard(tuple(tuple(sorted(own)) for own in dealt))


class Ranks:
    """The processes of a run, and which of them this one is. Alone, every method is what it would be without others."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.where = "the start"
        """What is being done, for messages."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def in_turn(self, function: Callable[[], Out]) -> Out:
        """Call a function in the first process, and when it has returned there in the others."""
        if not self.first:
            self._exchange(lambda: _collective().barrier())
            return function()
        result = function()
        self._exchange(lambda: _collective().barrier())
        return result

    def agree(self, what: str, value: str) -> None:
        """Raise UserError unless all processes have the same value."""
        for rank, other in enumerate(self.texts(value)):
            if other != value:
                raise UserError(
                    f"process {rank} of {self.size} has {what} other than process {self.rank}; start all with the same "
                    "options, data and number of threads"
                )

    def texts(self, own: str) -> list[str]:
        """The texts of all processes."""
        return [content.decode(errors="surrogateescape") for content in self.contents(own.encode(errors="surrogateescape"))]

    def contents(self, own: bytes) -> list[bytes]:
        """The bytes of all processes."""
        if self.size == 1:
            return [own]
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(own)
        self._exchange(lambda: _collective().all_reduce(sizes))
        buffer = torch.zeros(max(int(sizes.max()), 1), dtype=torch.uint8)
        buffer[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8) if own else buffer[:0]
        buffers = [torch.empty_like(buffer) for _ in range(self.size)]
        self._exchange(lambda: _collective().all_gather(buffers, buffer))
        return [part[:size].numpy().tobytes() for part, size in zip(buffers, sizes.tolist(), strict=True)]

    def sum(self, numbers: Tensor, tensors: Tensors, known: bool) -> tuple[Tensor, Tensors]:
        """Sums over all processes in float64, by one reduction: of a vector, and of tensors by name.

        Args:
            numbers: float64 [n], the same n in every process.
            tensors: float64; what a process has none of counts as zero.
            known: whether every process has tensors; otherwise the processes tell each other which there are.
        """
        if self.size == 1:
            return numbers, tensors
        tensors = tensors if known else self._completed(tensors)
        given, tensors = list(tensors), _in_order(tensors)
        parts = [numbers, *tensors.values()]
        where = parts[-1].device
        flat = torch.cat([part.detach().reshape(-1).to(where) for part in parts])
        if where.type != "cpu" and not _on_devices():
            flat = flat.cpu()
        if flat.device.type != "cpu":  # over there nobody would notice for minutes that another is gone
            self._exchange(lambda: _collective().barrier())
        self._exchange(lambda: _collective().all_reduce(flat))
        pieces = torch.split(flat.to(where), [part.numel() for part in parts])
        totals = {name: piece.view(tensors[name].shape) for name, piece in zip(tensors, pieces[1:], strict=True)}
        return pieces[0].cpu(), {name: totals[name] for name in given}

    def gather(self, rows: Tensors, counts: Sequence[int]) -> Tensors:
        """Rows [n, ..] of all processes, those of the first one first, by one exchange.

        Args:
            rows: this process's, by name, of any type; a process without rows may have none of the names.
            counts: how many rows each process has.
        """
        if self.size == 1:
            return rows
        if not any(counts):
            return rows
        rows = rows if all(counts) else self._completed(rows)
        if not rows:
            return rows
        given, rows = list(rows), _in_order(rows)
        where = next(iter(rows.values())).device
        cells = [int(np.prod(tensor.shape[1:])) * tensor.element_size() for tensor in rows.values()]
        table = torch.zeros(max(counts), sum(cells), dtype=torch.uint8)
        if counts[self.rank]:
            own = [tensor.detach().cpu().contiguous().flatten().view(torch.uint8) for tensor in rows.values()]
            table[: counts[self.rank]] = torch.cat([tensor.view(counts[self.rank], -1) for tensor in own], dim=1)
        tables = [torch.empty_like(table) for _ in counts]
        self._exchange(lambda: _collective().all_gather(tables, table))
        whole = torch.cat([part[:count] for part, count in zip(tables, counts, strict=True)])
        gathered = {}
        for (name, tensor), piece in zip(rows.items(), torch.split(whole, cells, dim=1), strict=True):
            gathered[name] = piece.flatten().view(tensor.dtype).view(len(whole), *tensor.shape[1:]).to(where)
        return {name: gathered[name] for name in given}

    def _completed(self, tensors: Tensors) -> Tensors:
        """The same, with empty or zero tensors where this process has none, as the first process that has any has them."""
        layout = [[name, str(t.dtype).removeprefix("torch."), list(t.shape), t.device.type] for name, t in tensors.items()]
        layouts = [json.loads(text) for text in self.texts(json.dumps(layout))]
        for name, dtype, shape, device in next((known for known in layouts if known), []):
            if name not in tensors:
                tensors = {**tensors, name: torch.zeros(shape, dtype=getattr(torch, dtype), device=device)}
        return tensors

    def _exchange(self, function: Callable[[], Any]) -> None:
        if self.size == 1:
            return
        try:
            function()
        except RuntimeError as error:  # what torch.distributed raises where a connection breaks
            raise _Broken(str(error)) from error

    @contextmanager
    def together(self, remedy: Callable[[], str]) -> Iterator[None]:
        """End the run in every process where something goes wrong in one of them.

        remedy: how to go on, for the message.
        """
        if self.size == 1:
            yield
            return
        if threading.current_thread() is not threading.main_thread():
            raise UserError("a run on several processes must be started from the main thread of each; call it there")
        before = signal.signal(signal.SIGTERM, _stop)
        try:
            yield
        except (_Broken, Stopped) as error:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is left takes seconds
            why, speaks = self._why(error)
            raise Lost(f"{why}; {remedy()}", speaks) from error
        except BaseException as error:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _store().set(_key("word", self.rank), f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)

    def _why(self, error: Exception) -> tuple[str, bool]:
        """What became of the others, and whether this process says it."""
        try:
            store = _store()
            store.set(_key("here", self.rank), "")
            until, others = time.monotonic() + GRACE, [rank for rank in range(self.size) if rank != self.rank]
            while True:
                words = {rank: store.get(_key("word", rank)).decode() for rank in others if store.check([_key("word", rank)])}
                gone = [rank for rank in others if rank not in words and not store.check([_key("here", rank)])]
                if not gone or time.monotonic() > until:
                    break
                time.sleep(0.05)
        except RuntimeError:  # the store went with the process that kept it, or the network did
            return f"process {self.rank} of {self.size} lost the connection to the others in {self.where}", True
        speaks = all(rank in gone for rank in range(self.rank))
        sentences = [f"process {rank} of {self.size} ended in {self.where} ({word})" for rank, word in words.items()]
        sentences += [
            f"process {rank} of {self.size} ended in {self.where} without a word, as one that was killed or is cut off"
            for rank in gone
        ]
        if not sentences and isinstance(error, Stopped):
            sentences = [f"the launcher stopped all processes in {self.where}"]
        return "; ".join(sentences) or f"the exchange between the processes failed in {self.where} ({error})", speaks


def _in_order(tensors: Tensors) -> Tensors:
    """Tensors in the order of their names, in which every process lays them side by side: one that read them from a file may
    have them in another order than one that computed them."""
    return dict(sorted(tensors.items()))


def joined() -> Ranks:
    """The processes that the launcher started together, as its environment says: RANK, WORLD_SIZE, ...; one without it.

    The processes stay together until they end.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return Ranks()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']!r} is in the environment and {', '.join(missing)} is not; start several "
            "processes with torchrun, or unset WORLD_SIZE for one"
        )
    collective = _collective()
    if not collective.is_initialized():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if torch.cuda.is_available():
            torch.cuda.set_device(local % torch.cuda.device_count())
        before = _sockets()
        collective.init_process_group("cpu:gloo,cuda:nccl" if _on_devices() else "gloo", timeout=PATIENCE)
        for opened in _sockets() - before:
            _break_in_silence(opened)
        atexit.register(leave)
    return Ranks(collective.get_rank(), collective.get_world_size())


def _sockets() -> set[int]:
    """The descriptors of all sockets of this process; none where the system does not list them."""
    opened = set()
    for name in os.listdir("/dev/fd") if os.path.isdir("/dev/fd") else []:
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                opened.add(int(name))
        except OSError:  # the one that listed the others, and what was closed meanwhile
            continue
    return opened


def _break_in_silence(descriptor: int) -> None:
    """Have a TCP connection end once the other side's system has answered nothing for SILENCE seconds.

    It answers by itself while its process computes or is stopped, so only a lost machine or network is silent. Without this,
    who waits for data would wait for ever, and who sends would do so for some 15 minutes.
    """
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (
        ("TCP_KEEPIDLE", SILENCE // 2),
        ("TCP_KEEPALIVE", SILENCE // 2),  # the same on macOS
        ("TCP_KEEPINTVL", SILENCE // 4),
        ("TCP_KEEPCNT", 2),
        ("TCP_USER_TIMEOUT", SILENCE * 1000),  # of what was sent and not acknowledged
    ):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    with socket.socket(fileno=os.dup(descriptor)) as own:
        if own.family in (socket.AF_INET, socket.AF_INET6) and own.type == socket.SOCK_STREAM:
            for option in options:
                own.setsockopt(*option)


def leave() -> None:
    """Close the connections; otherwise the interpreter may wait for them at its end."""
    if _collective().is_available() and _collective().is_initialized():
        _collective().destroy_process_group()


def _on_devices() -> bool:
    """Whether every process of this machine has a GPU of its own, without which NCCL does not start."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    return torch.cuda.is_available() and torch.cuda.device_count() >= processes and _collective().is_nccl_available()


def _collective() -> Any:
    import torch.distributed  # only where there are several

    return torch.distributed


def _store() -> Any:
    return _collective().distributed_c10d._get_default_store()


def _key(what: str, rank: int) -> str:
    return f"flow/{what}/{rank}"


def _stop(number: int, frame: Any) -> None:
    raise Stopped("stopped by the launcher")
