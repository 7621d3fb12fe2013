"""The tensors of a case on the device, the layer's side of it, and whether somebody else computes the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

import flow_kernels
from benchmarks.common.baselines import task
from benchmarks.common.cases import AGREE, Case
from benchmarks.gpu import device
from flow_kernels import RoutedGRU

PARTS = ("output", "gradient of x", "gradient of the weights")


class Wrong(RuntimeError):
    """Something computes something else. errors: by how much, part by part."""

    def __init__(self, message: str, errors: dict[str, float]) -> None:
        super().__init__(message)
        self.errors = errors


class Problem:
    """Weights as the layer draws them, x and the output's gradient standard normal; all in the case's dtype."""

    def __init__(self, case: Case, where: torch.device) -> None:
        torch.manual_seed(0)
        self.case, self.where, self.dtype = case, where, getattr(torch, case.dtype)
        with torch.device(where):
            self.layer = RoutedGRU(case.inputs, case.hidden, dtype=self.dtype, num_clients=case.clients)
            steps = (case.clients, case.steps, case.batch)
            self.x = torch.randn(*steps, case.inputs).to(self.dtype)
            self.grad = torch.randn(*steps, case.hidden).to(self.dtype)
        self.parameters = list(self.layer.parameters())
        self.weights = [p.detach() for p in self.parameters]
        self._exact: dict[str, dict[str, Tensor]] = {}

    def with_mode(self, mode: str) -> Problem:
        """The same tensors for the other mode."""
        other = Problem.__new__(Problem)
        other.__dict__ |= self.__dict__ | {"case": replace(self.case, mode=mode)}
        return other

    def explain(self) -> flow_kernels.plan.Plan:
        case = self.case
        return flow_kernels.explain(
            batch_size=case.batch,
            seq_len=case.steps,
            input_size=case.inputs,
            hidden_size=case.hidden,
            num_clients=case.clients,
            dtype=self.dtype,
            device=self.where,
            backend=device.BACKEND,
        )

    def ours(self, backend: str) -> Callable[[], list[Tensor]]:
        """The layer, its parameters the same tensors whatever the backend."""
        layer = self.layer
        if backend != "auto":
            with torch.device("meta"):
                layer = RoutedGRU(
                    self.case.inputs, self.case.hidden, dtype=self.dtype, num_clients=self.case.clients, backend=backend
                )
            for name, parameter in self.layer.named_parameters():
                setattr(layer, name, parameter)
        return task(lambda x: layer(x)[0], self.parameters, self.x, self.grad, self.case.mode)

    def exact(self, route: str = "mixture") -> dict[str, Tensor]:
        """The parts by the reference in float64, from the same (rounded) numbers; computed once."""
        if route not in self._exact:
            own = {"mixture": slice(0, 10), "global": slice(0, 4), "local": slice(4, 8)}[route]
            x = self.x.double().requires_grad_()
            leaves = [w.double().requires_grad_() for w in self.weights[own]]
            weights: list[Tensor | None] = [None] * 10
            weights[own] = leaves
            y = flow_kernels.routed_gru(x, None, *weights, route=route, backend="reference")[0]
            grads = torch.autograd.grad(y, [x, *leaves], self.grad.double())
            self._exact[route] = self.parts([y.detach(), *grads])
        return self._exact[route]

    def parts(self, results: Sequence[Tensor]) -> dict[str, Tensor]:
        """The output, the gradient of x and that of all weights in one, client by client; whoever has a client's weights apart
        gives one client's gradients after the other's."""
        gradients = list(results[2:])
        if gradients and gradients[0].dim() == 3:  # stacked
            gradients = [g[k] for k in range(self.case.clients) for g in gradients]
        all_weights = [torch.cat([g.detach().double().flatten() for g in gradients])] if gradients else []
        return dict(zip(PARTS, [*(t.detach().double() for t in results[:2]), *all_weights], strict=False))

    def check(self, name: str, results: Sequence[Tensor], route: str = "mixture") -> dict[str, float]:
        """Relative errors, as norms, against float64.

        Raises:
            Wrong: one is larger than rounding explains.
        """
        parts, exact, limit, errors = self.parts(results), self.exact(route), AGREE[self.case.dtype], {}
        for part, tensor in parts.items():
            want = exact[part].view_as(tensor)
            errors[part] = float((tensor - want).norm() / want.norm())
        for part, error in errors.items():
            if not error <= limit:
                raise Wrong(
                    f"{self.case.shape} {self.case.dtype}, {name}: the {part} is off by {error:.1e} of its norm, more than "
                    f"{limit:.0e}",
                    errors,
                )
        return errors
