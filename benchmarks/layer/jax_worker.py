"""Worker process for JAX: `python -m benchmarks.layer.jax_worker --threads 1 --processors 1`.

The routed GRU as jit(lax.scan), "scan" with everything inside the step and "hoisted" with the input's products before it;
"step" is one step alone. JAX's CPU client takes every processor that its process may run on, so the process is pinned first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from benchmarks.common import worker

if __name__ == "__main__":
    _, requests, replies = worker.start(sys.argv[1:])

import jax
import jax.numpy as jnp
from safetensors.flax import load_file, save_file

jax.config.update("jax_enable_x64", True)  # float64 cases; the others say their dtype
Weights = list[jax.Array]


def gates(from_x: jax.Array, from_h: jax.Array, h: jax.Array) -> jax.Array:
    """[.., 3H], [.., 3H] and the state [.., H] -> one expert's next state."""
    (xr, xz, xn), (hr, hz, hn) = (jnp.split(a, 3, -1) for a in (from_x, from_h))
    r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + r * hn)
    return n + z * (h - n)


def step(weights: Weights, h: jax.Array, x: jax.Array) -> jax.Array:
    experts = [weights[n : n + 4] for n in range(0, 8 if len(weights) > 4 else 4, 4)]
    states = [gates(x @ w_ih.T + b_ih, h @ w_hh.T + b_hh, h) for w_ih, w_hh, b_ih, b_hh in experts]
    if len(states) == 1:
        return states[0]
    q = jax.nn.softmax(jnp.concatenate([x, h], -1) @ weights[8].T + weights[9])
    return q[..., :1] * states[0] + q[..., 1:] * states[1]


def scan(weights: Weights, x: jax.Array) -> jax.Array:
    def body(h: jax.Array, xt: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = step(weights, h, xt)
        return h, h

    return jax.lax.scan(body, jnp.zeros((x.shape[1], weights[1].shape[1]), x.dtype), x)[1]


def hoisted(weights: Weights, x: jax.Array) -> jax.Array:
    inputs, hidden = weights[0].shape[1], weights[1].shape[1]
    experts = [weights[n : n + 4] for n in range(0, 8 if len(weights) > 4 else 4, 4)]
    w_ih, w_hh, b_ih, b_hh = (list(group) for group in zip(*experts, strict=True))
    if len(experts) == 2:
        w_ih.append(weights[8][:, :inputs])
        w_hh.append(weights[8][:, inputs:])
        b_ih.append(weights[9])
        b_hh.append(jnp.zeros_like(weights[9]))
    count = 3 * hidden * len(experts)
    from_x, w, b = x @ jnp.concatenate(w_ih).T + jnp.concatenate(b_ih), jnp.concatenate(w_hh).T, jnp.concatenate(b_hh)

    def body(h: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
        c = h @ w + b
        ax, ch = (s[:, :count].reshape(len(h), len(experts), 3 * hidden) for s in (a, c))
        states = gates(ax, ch, h[:, None])
        if len(experts) == 1:
            h = states[:, 0]
        else:
            q = jax.nn.softmax(a[:, count:] + c[:, count:])
            h = (q[:, :, None] * states).sum(1)
        return h, h

    return jax.lax.scan(body, jnp.zeros((x.shape[1], hidden), x.dtype), from_x)[1]


FORMS = {"scan": scan, "hoisted": hoisted}


def prepare(request: dict[str, Any]) -> Callable[[], object]:
    tensors = load_file(request["file"])
    x, grad = tensors.pop("x"), tensors.pop("grad")
    weights = [tensors[name] for name in sorted(tensors)]
    call: Callable[[], Any]
    if request["mode"] == "step":
        run = jax.jit(step)
        call = lambda: jax.block_until_ready(run(weights, grad, x))  # noqa: E731 (grad is the state)
        results = [call()]
    else:
        form: Callable[[Weights, jax.Array], jax.Array] = FORMS[request["what"]]
        if weights[0].ndim == 3:  # one client after the other: side by side, products stay as small and are slower
            per_client = form
            form = lambda w, x: jax.lax.map(lambda client: per_client(*client), (w, x))  # noqa: E731
        if request["mode"] == "forward":
            forward = jax.jit(form)
            call = lambda: jax.block_until_ready(forward(weights, x))  # noqa: E731
            results = [call()]
        else:

            def loss(weights: Weights, x: jax.Array) -> tuple[jax.Array, jax.Array]:
                out = form(weights, x)
                return (out * grad).sum(), out

            training = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
            call = lambda: jax.block_until_ready(training(weights, x))  # noqa: E731
            (_, out), (dweights, dx) = call()
            results = [out, dx, *dweights]
    save_file({f"{n:04}": r for n, r in enumerate(results)}, request["results"])
    return call


if __name__ == "__main__":
    worker.serve(prepare, requests, replies)
