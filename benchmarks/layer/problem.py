"""The tensors of a case, the layer's side of it, and whether somebody else computes the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.common.baselines import task
from benchmarks.common.cases import AGREE, Case
from benchmarks.common.timing import Sample, sample
from flow_kernels import RoutedGRU, RoutedGRUCell, explain


class Local:
    """Something of this process, as a contender, on its number of threads, with or without recording a graph."""

    def __init__(self, name: str, call: Callable[[], object], threads: int, grad: bool = True) -> None:
        self.name, self.call, self._threads, self._grad = name, call, threads, grad

    def sample(self, seconds: float) -> Sample:
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.set_grad_enabled(self._grad):
            return sample(self.call, seconds)


class Problem:
    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.case, dtype = case, getattr(torch, case.dtype)
        leading = (case.clients,) if case.clients else ()
        self.layer = RoutedGRU(case.inputs, case.hidden, dtype=dtype, num_clients=case.clients or None)
        self.parameters = list(self.layer.parameters())[: None if case.route == "mixture" else 4]
        self.weights = [p.detach() for p in self.parameters]
        if case.mode == "step":
            self.x = torch.randn(case.batch, case.inputs, dtype=dtype)
            self.grad = torch.randn(case.batch, case.hidden, dtype=dtype) / 2  # the state
        else:
            self.x = torch.randn(*leading, case.steps, case.batch, case.inputs, dtype=dtype)
            self.grad = torch.randn(*leading, case.steps, case.batch, case.hidden, dtype=dtype)

    @property
    def backend(self) -> str:
        case = self.case
        plan = explain(
            batch_size=case.batch,
            seq_len=case.steps,
            input_size=case.inputs,
            hidden_size=case.hidden,
            num_clients=max(case.clients, 1),
            dtype=getattr(torch, case.dtype),
        )
        return plan.backend

    def ours(self) -> Local:
        case = self.case
        if case.mode == "step":
            cell = RoutedGRUCell.from_layer(self.layer)
            call: Callable[[], object] = lambda: cell(self.x, self.grad, route=case.route)  # noqa: E731
        else:
            call = task(lambda x: self.layer(x, route=case.route)[0], self.parameters, self.x, self.grad, case.mode)
        return Local("ours", call, case.threads, case.mode == "training")

    def save(self, path: Path) -> None:
        """For a worker."""
        weights = {f"w{n}": w.contiguous() for n, w in enumerate(self.weights)}
        save_file({"x": self.x, "grad": self.grad, **weights}, path)

    def parts(self, results: Sequence[Tensor]) -> dict[str, Tensor]:
        """The output, the gradient of x and that of all weights in one: the router's alone may be what is left of terms that
        cancel, and then says little."""
        parts = {"output": results[0]}
        if len(results) > 1:
            gradients = list(results[2:])
            if self.case.clients and len(gradients) == len(self.weights):  # ours; a baseline has them client by client
                gradients = [g[k] for k in range(self.case.clients) for g in gradients]
            parts |= {"gradient of x": results[1], "gradient of the weights": torch.cat([g.flatten() for g in gradients])}
        return {name: tensor.detach().double() for name, tensor in parts.items()}

    def check(self, name: str, results: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        """Raise AssertionError unless these are the layer's numbers, to rounding."""
        theirs, ours, limit = self.parts(results), self.parts(expected), AGREE[self.case.dtype]
        assert theirs.keys() == ours.keys(), f"{name} gives {list(theirs)}, the layer {list(ours)}"
        for what, tensor in theirs.items():
            error = float((tensor - ours[what]).norm() / tensor.norm())
            assert error <= limit, (
                f"{self.case.shape} {self.case.dtype}, {name}: the {what} differs by {error:.1e}, more than {limit:.0e}; "
                "nothing that computes something else is timed"
            )

    def check_file(self, name: str, path: Path, expected: Sequence[Tensor]) -> None:
        tensors = load_file(path)
        self.check(name, [tensors[key] for key in sorted(tensors)], expected)
