"""Calls of the kernels as problems whose arguments can be broken one by one, each with its result in plain float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flow_kernels import reference
from flow_kernels.backends import cpu
from flow_kernels.call import NAMES
from flow_kernels.training import Head, Moments, Step, Weights, accumulate_, adam_, gru, head_loss, route, route_backward, sgd_

K, T, B, I, H = 2, 3, 4, 5, 7  # noqa: E741 (the letters of docs/cell.md)
N, V, D = 6, 9, 3
GUARD = 64
"""Bytes before and behind every tensor, which nothing may change."""

Arguments = dict[str, Any]


@dataclass
class Problem:
    arguments: Arguments
    written: tuple[str, ...]
    """The arguments that a call changes."""
    call: Callable[[Arguments], Any]
    """Returns a status, 0 where the call was accepted; or a dictionary of results."""
    expected: Callable[[Arguments], dict[str, Tensor]]
    """From the arguments before the call: what it writes and returns, in float64."""
    fixed: tuple[str, ...] = ()
    """What an earlier call has computed: other values than its own mean nothing."""


class Draw:
    """Random tensors that lie between guards."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype
        self.buffers: list[Tensor] = []

    def guarded(self, t: Tensor) -> Tensor:
        size = t.numel() * t.element_size()
        buffer = torch.full((size + 2 * GUARD,), 0xA5, dtype=torch.uint8)
        self.buffers.append(buffer)
        inside = buffer[GUARD : GUARD + size].view(t.dtype).view(t.shape)
        return inside.copy_(t)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return self.guarded((torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale).to(self.dtype))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return self.guarded(torch.randint(low, high, shape, generator=self.generator))

    def blank(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """What a kernel is to write: NaN, or the smallest integers."""
        dtype = dtype or self.dtype
        return self.guarded(torch.full(shape, torch.nan if dtype.is_floating_point else -(2**62), dtype=dtype))


def wide(t: Any) -> Any:
    return t.detach().double() if isinstance(t, Tensor) else t


# ---- the routed GRU -------------------------------------------------------------------------------------------------


def _layer(draw: Draw) -> Arguments:
    tensors: Arguments = {"input": draw.normal(K, B, T, I), "hx": draw.normal(K, B, H)}
    for prefix in ("", "local_"):
        tensors |= {f"{prefix}weight_ih": draw.normal(K, 3 * H, I, scale=0.4)}
        tensors |= {f"{prefix}weight_hh": draw.normal(K, 3 * H, H, scale=0.4)}
        tensors |= {f"{prefix}bias_ih": draw.normal(K, 3 * H), f"{prefix}bias_hh": draw.normal(K, 3 * H)}
    tensors |= {"router_weight": draw.normal(K, 2, I + H), "router_bias": draw.normal(K, 2)}
    lengths = draw.guarded(torch.tensor([[3, 1, 2, 0], [2, 3, 1, 1]]))
    return tensors | dict(lengths=lengths, route="mixture", routing="soft", temperature=0.7, threads=1)


def _plain_layer(a: Arguments, tensors: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """y, h_n and q, batch first, by the reference."""
    x, h0, *w = tensors
    first, second = (None if e[0] is None or e[1] is None else reference.Expert(*e) for e in (w[:4], w[4:8]))
    router = None if w[8] is None else reference.Router(w[8], w[9])
    y, h_n, q = reference.routed_gru(
        x.transpose(1, 2),
        h0,
        first,
        second,
        router,
        lengths=a["lengths"],
        route=a["route"],
        routing=a["routing"],
        temperature=a["temperature"],
    )
    return y.transpose(1, 2), h_n, q.transpose(1, 2)


def _expected_forward(a: Arguments) -> dict[str, Tensor]:
    return dict(zip(("y", "h_n", "q"), _plain_layer(a, [wide(a[n]) for n in NAMES]), strict=True))


def _raw_options(a: Arguments) -> tuple[Any, ...]:
    return (
        a["lengths"],
        None,
        a["route"],
        a["routing"],
        a["temperature"],
        True,
        False,
        True,
        a.get("bfloat16", False),
        a["threads"],
    )


def _raw_forward(a: Arguments) -> Any:
    outputs = (a[n] for n in ("y", "h_n", "q", "gates"))
    return cpu._kernels.forward(tuple(a[n] for n in NAMES), *_raw_options(a), *outputs)


def _try_forward(a: Arguments) -> Any:
    outputs = (a[n] for n in ("y", "h_n", "q", "gates"))
    return cpu._kernels.try_forward(tuple(a[n] for n in NAMES), *_raw_options(a), *outputs)


def _given(a: Arguments) -> dict[str, Any]:
    weights = Weights(*(a[n] for n in Weights._fields))
    options = {n: a[n] for n in ("lengths", "route", "routing", "temperature")}
    return dict(x=a["input"], h0=a["hx"], weights=weights, **options)


def _forward(a: Arguments) -> Any:
    gru.forward(**_given(a), **{n: a[n] for n in ("y", "h_n", "q", "gates")})
    return 0


def forward(draw: Draw, call: Callable[[Arguments], Any]) -> Problem:
    a = _layer(draw)
    a |= dict(y=draw.blank(K, B, T, H), h_n=draw.blank(K, B, H), q=draw.blank(K, B, T, 2))
    a |= dict(gates=draw.blank(*gru.gates_shape(K, B, T, H, "mixture")))
    return Problem(a, ("y", "h_n", "q", "gates"), call, _expected_forward)


_GRADIENTS = tuple(f"d{n}" for n in NAMES)


def _expected_backward(a: Arguments) -> dict[str, Tensor]:
    leaves = [None if a[n] is None else wide(a[n]).requires_grad_() for n in NAMES]
    outputs = _plain_layer(a, leaves)
    slopes = [wide(a[n]) for n in ("dy", "dh_n", "dq")]
    loss = sum((o * s).sum() for o, s in zip(outputs, slopes, strict=True) if s is not None)
    wanted = [t for t in leaves if t is not None]
    gradients = iter(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))
    return {f"d{n}": next(gradients) for n, t in zip(NAMES, leaves, strict=True) if t is not None}


def _raw_backward(a: Arguments) -> Any:
    return cpu._kernels.backward(
        tuple(a[n] for n in NAMES),
        *_raw_options(a),
        *(a[n] for n in ("y", "q", "gates", "dy", "dh_n", "dq")),
        tuple(a[n] for n in _GRADIENTS),
    )


def _backward(a: Arguments) -> Any:
    rest = {n: a[n] for n in ("y", "q", "gates", "dy", "dh_n", "dq")}
    dx, dh0, *gradients = (a[n] for n in _GRADIENTS)
    gru.backward(**_given(a), **rest, dx=dx, dh0=dh0, gradients=Weights(*gradients))
    return 0


def backward(draw: Draw, call: Callable[[Arguments], Any]) -> Problem:
    before = forward(draw, _raw_forward)
    assert before.call(before.arguments) == 0
    a = before.arguments
    del a["h_n"]
    a |= dict(dy=draw.normal(K, B, T, H), dh_n=draw.normal(K, B, H), dq=draw.normal(K, B, T, 2))
    a |= {f"d{n}": draw.blank(*a[n].shape) for n in NAMES}
    # a route or a length of its own would ask for what forward has not saved
    return Problem(
        a, _GRADIENTS, call, _expected_backward, (*NAMES, "lengths", "route", "routing", "temperature", "y", "q", "gates")
    )


# ---- the head and its router ----------------------------------------------------------------------------------------

_OUT = tuple(f"d{n}" for n in Head._fields)


def _expected_head(a: Arguments) -> dict[str, Tensor]:
    names = ("x", "q", *Head._fields)
    leaves: dict[str, Any] = {n: None if a[n] is None else wide(a[n]).requires_grad_() for n in names}
    features, targets = leaves["x"], a["targets"]
    if leaves["projection_weight"] is not None:
        features = features @ leaves["projection_weight"].mT + leaves["projection_bias"].unsqueeze(1)
    logits = features @ leaves["weight"].mT + leaves["bias"].unsqueeze(1)
    if leaves["q"] is not None:
        second = features @ leaves["local_weight"].mT + leaves["local_bias"].unsqueeze(1)
        logits = leaves["q"][..., :1] * logits + leaves["q"][..., 1:] * second
    log_p, valid = logits.log_softmax(-1), targets >= 0
    row_nats = torch.where(valid, -log_p.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1), 0.0)
    loss = (row_nats.sum(1) / valid.sum(1).clamp_min(1)).sum()
    wanted = {n: t for n, t in leaves.items() if t is not None}
    gradients = dict(
        zip(wanted, torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, materialize_grads=True), strict=True)
    )
    return {
        "nats": row_nats.sum(1).detach(),
        "counts": valid.sum(1),
        "row_nats": row_nats.detach(),
        "best": torch.where(valid, logits.argmax(-1), -1),
        "probability": torch.where(valid, log_p.amax(-1).exp(), 0.0).detach(),
        **{f"d{n}": g for n, g in gradients.items()},
    }


def _raw_head(a: Arguments) -> Any:
    return cpu._kernels.head(
        a["x"],
        a["targets"],
        tuple(a[n] for n in Head._fields),
        a["q"],
        a["nats"],
        a["counts"],
        (a["best"], a["row_nats"], a["probability"]),
        a["dx"],
        a["dq"],
        tuple(a[n] for n in _OUT),
        a.get("bfloat16", False),
        a["threads"],
    )


def _head(a: Arguments) -> Any:
    head, out = Head(*(a[n] for n in Head._fields)), [a[n] for n in _OUT]
    result = head_loss(a["x"], a["targets"], head, a["q"], x_grad=True, q_grad=True, out=out, x_out=a["dx"], best=True)
    results = result._asdict()
    return {"dq": results.pop("q"), "dx": results.pop("x"), **results}


def head(draw: Draw, call: Callable[[Arguments], Any]) -> Problem:
    a: Arguments = {"x": draw.normal(K, N, I), "targets": draw.integers(-1, V, K, N), "q": draw.normal(K, N, 2)}
    a |= {"projection_weight": draw.normal(K, D, I), "projection_bias": draw.normal(K, D)}
    for prefix in ("", "local_"):
        a |= {f"{prefix}weight": draw.normal(K, V, D), f"{prefix}bias": draw.normal(K, V)}
    written = {"dx": draw.blank(K, N, I), **{f"d{n}": draw.blank(*a[n].shape) for n in Head._fields}}
    if call is _raw_head:
        written |= {"dq": draw.blank(K, N, 2), "row_nats": draw.blank(K, N), "probability": draw.blank(K, N)}
        written |= {"nats": draw.blank(K, dtype=torch.float64), "counts": draw.blank(K, dtype=torch.int64)}
        written |= {"best": draw.blank(K, N, dtype=torch.int64)}
        a["threads"] = 1
    return Problem(a | written, tuple(written), call, _expected_head)


def _scores(a: Arguments, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    q = torch.softmax((x @ weight.mT + bias.unsqueeze(1)) / a["temperature"], -1)
    return torch.where((a["targets"] >= 0).unsqueeze(-1), q, 0.0)


def _expected_route(a: Arguments) -> dict[str, Tensor]:
    return {"q": _scores(a, *(wide(a[n]) for n in ("x", "weight", "bias")))}


def _raw_route(a: Arguments) -> Any:
    tensors = (a[n] for n in ("x", "targets", "weight", "bias", "q"))
    return cpu._kernels.router(*tensors, False, a["temperature"], None, None, None, None, a["threads"])


def _route(a: Arguments) -> Any:
    return {"q": route(a["x"], a["targets"], a["weight"], a["bias"], temperature=a["temperature"])}


def router(draw: Draw, call: Callable[[Arguments], Any]) -> Problem:
    a: Arguments = {"x": draw.normal(K, N, H), "targets": draw.integers(-1, V, K, N), "weight": draw.normal(K, 2, H)}
    a |= {"bias": draw.normal(K, 2), "temperature": 0.7}
    if call is _route:
        return Problem(a, (), call, _expected_route)
    return Problem(a | {"q": draw.blank(K, N, 2), "threads": 1}, ("q",), call, _expected_route)


def _expected_route_backward(a: Arguments) -> dict[str, Tensor]:
    leaves = [wide(a[n]).requires_grad_() for n in ("x", "weight", "bias")]
    gradients = torch.autograd.grad((_scores(a, *leaves) * wide(a["dq"])).sum(), leaves)
    result = dict(zip(("dx", "dweight", "dbias"), gradients, strict=True))
    if a["dx"] is not None:
        result["dx"] = result["dx"] + wide(a["dx"])  # to what was there
    return result


def _raw_route_backward(a: Arguments) -> Any:
    tensors = (a[n] for n in ("x", "targets", "weight", "bias", "q"))
    gradients = (a[n] for n in ("dq", "dx", "dweight", "dbias"))
    return cpu._kernels.router(*tensors, False, a["temperature"], *gradients, a["threads"])


def _route_backward(a: Arguments) -> Any:
    route_backward(
        a["x"],
        a["targets"],
        a["weight"],
        a["bias"],
        a["q"],
        a["dq"],
        temperature=a["temperature"],
        dx=a["dx"],
        dweight=a["dweight"],
        dbias=a["dbias"],
    )
    return 0


def router_backward(draw: Draw, call: Callable[[Arguments], Any]) -> Problem:
    before = router(draw, _raw_route)
    assert before.call(before.arguments) == 0
    a = before.arguments
    a |= {"dq": draw.normal(K, N, 2), "dx": draw.normal(K, N, H), "dweight": draw.blank(K, 2, H), "dbias": draw.blank(K, 2)}
    fixed = ("x", "targets", "weight", "bias", "q", "temperature")
    return Problem(a, ("dx", "dweight", "dbias"), call, _expected_route_backward, fixed)


# ---- SGD, Adam and sums ---------------------------------------------------------------------------------------------

_OPTIONS: dict[str, Any] = {"lr": 0.3, "clip": 1.5, "mu": 0.2, "weight_decay": 0.1, "momentum": 0.9}


def _expected_sgd(a: Arguments) -> dict[str, Tensor]:
    result = {}
    squares = sum(wide(a[f"gradient{n}"]).flatten(1).square().sum(1) for n in range(2))
    scale = _OPTIONS["clip"] / squares.sqrt().clamp_min(_OPTIONS["clip"])
    for n in range(2):
        p, g, v = (wide(a[f"{name}{n}"]) for name in ("parameter", "gradient", "velocity"))
        shape = (-1,) + (1,) * (p.dim() - 1)
        g = g * scale.view(shape) + _OPTIONS["weight_decay"] * p
        if a[f"anchor{n}"] is not None:
            g = g + _OPTIONS["mu"] * (p - wide(a[f"anchor{n}"]))
        v = _OPTIONS["momentum"] * v + g
        here = torch.ones(len(p), dtype=torch.bool) if a["present"] is None else a["present"]
        result[f"parameter{n}"] = torch.where(here.view(shape), p - _OPTIONS["lr"] * v, p)
        result[f"velocity{n}"] = torch.where(here.view(shape), v, wide(a[f"velocity{n}"]))
    return result


def _steps(a: Arguments) -> list[Step]:
    return [Step(*(a[f"{name}{n}"] for name in ("parameter", "gradient", "anchor", "velocity"))) for n in range(2)]


def _raw_sgd(a: Arguments) -> Any:
    return cpu._kernels.sgd(_steps(a), a["present"], *_OPTIONS.values(), a["threads"])


def _sgd(a: Arguments) -> Any:
    sgd_(_steps(a), present=a["present"], **_OPTIONS)
    return 0


def sgd(draw: Draw, call: Callable[[Arguments], Any]) -> Problem:
    a: Arguments = {"present": draw.guarded(torch.tensor([True, False])), "threads": 1}
    for n, shape in enumerate(((K, 4, 3), (K, 11))):
        a |= {f"{name}{n}": draw.normal(*shape) for name in ("parameter", "gradient", "anchor", "velocity")}
    return Problem(a, ("parameter0", "parameter1", "velocity0", "velocity1"), call, _expected_sgd)


_ADAM: dict[str, Any] = {"lr": 0.3, "clip": 1.5, "mu": 0.2, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.8, "epsilon": 1e-2}


def _expected_adam(a: Arguments) -> dict[str, Tensor]:
    present = torch.ones(K, dtype=torch.bool) if a["present"] is None else a["present"]
    taken = a["taken"] + present
    squares = sum(wide(a[f"gradient{n}"]).flatten(1).square().sum(1) for n in range(2))
    scale = _ADAM["clip"] / squares.sqrt().clamp_min(_ADAM["clip"])
    result: dict[str, Tensor] = {"taken": taken}
    for n in range(2):
        p, g, m, v = (wide(a[f"{name}{n}"]) for name in ("parameter", "gradient", "first", "second"))
        shape = (-1,) + (1,) * (p.dim() - 1)
        here, t = present.view(shape), taken.double().clamp_min(1).view(shape)
        g = g * scale.view(shape) + _ADAM["weight_decay"] * p
        if a[f"anchor{n}"] is not None:
            g = g + _ADAM["mu"] * (p - wide(a[f"anchor{n}"]))
        new_m = _ADAM["beta1"] * m + (1 - _ADAM["beta1"]) * g
        new_v = _ADAM["beta2"] * v + (1 - _ADAM["beta2"]) * g * g
        root = (new_v / (1 - _ADAM["beta2"] ** t)).sqrt() + _ADAM["epsilon"]
        moved = p - _ADAM["lr"] * new_m / (1 - _ADAM["beta1"] ** t) / root
        for name, new, old in (("parameter", moved, p), ("first", new_m, m), ("second", new_v, v)):
            result[f"{name}{n}"] = torch.where(here, new, old)
    return result


def _of_adam(a: Arguments) -> tuple[list[Step], list[Moments]]:
    steps = [Step(*(a[f"{name}{n}"] for name in ("parameter", "gradient", "anchor"))) for n in range(2)]
    return steps, [Moments(a[f"first{n}"], a[f"second{n}"]) for n in range(2)]


def _raw_adam(a: Arguments) -> Any:
    return cpu._kernels.adam(*_of_adam(a), a["taken"], a["present"], *_ADAM.values(), False, a["threads"])


def _adam(a: Arguments) -> Any:
    adam_(*_of_adam(a), a["taken"], present=a["present"], **_ADAM)
    return 0


def adam(draw: Draw, call: Callable[[Arguments], Any]) -> Problem:
    a: Arguments = {"present": draw.guarded(torch.tensor([True, False])), "threads": 1, "taken": draw.integers(0, 3, K)}
    for n, shape in enumerate(((K, 4, 3), (K, 11))):
        a |= {f"{name}{n}": draw.normal(*shape) for name in ("parameter", "gradient", "anchor", "first")}
        a[f"second{n}"] = draw.guarded(torch.rand(shape, generator=draw.generator, dtype=torch.float64).to(draw.dtype))
    names = [f"{name}{n}" for name in ("parameter", "first", "second") for n in range(2)]
    return Problem(a, (*names, "taken"), call, _expected_adam, ("second0", "second1"))


def _expected_rows(a: Arguments) -> dict[str, Tensor]:
    parameter, gradient, rows = wide(a["parameter"]).clone(), wide(a["gradient"]), a["rows"]
    for k, n in (rows >= 0).nonzero().tolist():
        parameter[k, rows[k, n]] -= 0.3 * gradient[k, n]
    return {"parameter": parameter}


def _raw_rows(a: Arguments) -> Any:
    return cpu._kernels.sgd(
        [(a["parameter"], a["gradient"], None, None, a["rows"])], None, 0.3, 0.0, 0.0, 0.0, 0.0, a["threads"]
    )


def _rows(a: Arguments) -> Any:
    sgd_([Step(a["parameter"], a["gradient"], rows=a["rows"])], lr=0.3)
    return 0


def rows(draw: Draw, call: Callable[[Arguments], Any]) -> Problem:
    a = {"parameter": draw.normal(K, V, D), "gradient": draw.normal(K, N, D), "rows": draw.integers(-1, V, K, N), "threads": 1}
    return Problem(a, ("parameter",), call, _expected_rows)


def _expected_sum(a: Arguments) -> dict[str, Tensor]:
    total = wide(a["total"]).sum(0)
    for n in range(2):
        weights, uploads = wide(a[f"weights{n}"]), wide(a[f"uploads{n}"])
        total = total + (weights.view(-1, *(1,) * (uploads.dim() - 1)) * uploads).sum(0)
    return {"total": total}


def _raw_sum(a: Arguments) -> Any:
    uploads, weights = (tuple(a[f"{name}{n}"] for n in range(2)) for name in ("uploads", "weights"))
    return cpu._kernels.accumulate(a["total"], uploads, weights, False)


def _sum(a: Arguments) -> Any:
    accumulate_(a["total"], [a["uploads0"], a["uploads1"]], [a["weights0"], a["weights1"]])
    return 0


def sums(draw: Draw, call: Callable[[Arguments], Any]) -> Problem:
    a: Arguments = {"total": draw.guarded(torch.zeros(3, 4, 3, dtype=torch.float64))}
    for n, clients in enumerate((2, 3)):
        a[f"uploads{n}"] = draw.normal(clients, 4, 3)
        a[f"weights{n}"] = draw.guarded(torch.rand(clients, generator=draw.generator, dtype=torch.float64))
    return Problem(a, ("total",), call, _expected_sum)


Call = Callable[[Arguments], Any]
Made = tuple[Callable[[Draw, Call], Problem], Call]
RAW: dict[str, Made] = {
    "forward": (forward, _raw_forward), "try_forward": (forward, _try_forward), "backward": (backward, _raw_backward),
    "head": (head, _raw_head), "router": (router, _raw_route), "router backward": (router_backward, _raw_route_backward),
    "sgd": (sgd, _raw_sgd), "sgd by rows": (rows, _raw_rows), "adam": (adam, _raw_adam), "accumulate": (sums, _raw_sum),
}  # fmt: skip
"""The methods of flow_kernels._C.Kernels."""
FUNCTIONS: dict[str, Made] = {
    "gru.forward": (forward, _forward), "gru.backward": (backward, _backward), "head_loss": (head, _head),
    "route": (router, _route), "route_backward": (router_backward, _route_backward), "sgd_": (sgd, _sgd),
    "sgd_ by rows": (rows, _rows), "adam_": (adam, _adam), "accumulate_": (sums, _sum),
}  # fmt: skip
"""The functions of flow_kernels.training."""
PROBLEMS = RAW | FUNCTIONS
