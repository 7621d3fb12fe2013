"""pFedHN and pFedHN-PC (Shamsian et al., ICML 2021, arXiv 2103.04628): a hypernetwork at the server writes clients' models.

The server knows every client as a vector v_i and makes tensors theta_i = h(v_i; phi) of it
(flow/algorithms/shared/hypernetwork.py). Chosen are those whose size does not grow with the vocabulary; the
others are shared and averaged, or, the head, kept by the client (PC).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from flow.algorithms.interface import Algorithm, Stopping, Tunable
from flow.algorithms.shared.finetuning import check_rate
from flow.algorithms.shared.hypernetwork import fresh_phi, generate, generate_each, pull_back, pull_back_each
from flow.checks import check_number
from flow.draws import Draw
from flow.errors import UserError
from flow.model.flops import per_token
from flow.model.interface import Model, Part
from flow.model.parameters import Tensors, copy, head_of, initial, nbytes, per_client, tagged, untagged
from flow.server.options import ServerOptions
from flow.server.uploads import Uploads, weighted_mean
from flow.training.batches import Data, batches
from flow.training.descent import descend
from flow.training.messages import Download, Members, Personal, Upload, Visit, broadcast
from flow.training.records import Tally, Work, no_work
from flow.training.sgd import Sgd, Update, check_sgd
from flow.training.work import train

VECTORS, VISITS = "vectors", "visits"
MOST = 1 << 31  # bytes of the hypernetwork with the clients' vectors


@dataclass(frozen=True)
class HyperOptions:
    """What pFedHN and pFedHN-PC have in common."""

    lr: float = 2.0
    """Learning rate of the clients' SGD. (AvivSham/pFedHN: 0.005, with momentum 0.9; with clipping, 2 does in a few rounds.)"""

    steps: int = 20
    """SGD steps of a client per round, K, each on a batch drawn anew. (AvivSham/pFedHN: 50.)"""

    batch_size: int = 8
    """Sequences per SGD step of a client. (AvivSham/pFedHN: 64.)"""

    clip: float = 1.0
    """Largest norm of a client's gradient over the weights trained in a step. 0: no clipping. (AvivSham/pFedHN: 50.)"""

    generated: Literal["gru", "all"] = "gru"
    """The tensors that the hypernetwork generates. "gru": those of the GRU, whose size does not grow with the vocabulary.
    "all": the embedding too and, where it is not the client's own, the head. (AvivSham/pFedHN: all.)"""

    hyper_lr: float = 1.0
    """Learning rate of the hypernetwork, alpha; with hyper_clip the length of a step. (AvivSham/pFedHN: 0.01 over 5000 steps,
    PC 0.05.)"""

    vector_lr: float | None = None
    """Learning rate of the clients' vectors. None: hyper_lr. (AvivSham/pFedHN: the same.)"""

    hyper_momentum: float = 0.0
    """Momentum of the SGD on hypernetwork and vectors. (AvivSham/pFedHN: 0.9; in a short run it overshoots.)"""

    hyper_decay: float = 1e-4
    """Weight decay of the same. (AvivSham/pFedHN: 1e-3; its lr 0.01 and momentum 0.9 take off 1e-4 of a weight a step.)"""

    server_steps: Literal["together", "one by one"] = "together"
    """How a round's clients move the hypernetwork: "together": one step by their mean; "one by one": a step for each, in the
    order of their ids. (AvivSham/pFedHN: rounds of one client, 5000 of them.)"""

    hyper_clip: float = 1.0
    """Largest norm of the gradient of hypernetwork and vectors together. 0: no clipping. (AvivSham/pFedHN: 50.)"""

    vector_size: int | None = None
    """Numbers in a client's vector. None: 1 + a quarter of the clients that may train, at most hyper_width.
    (AvivSham/pFedHN: 1 + a quarter of the clients.)"""

    vector_scale: float = 0.1
    """Standard deviation of the vectors' initial values. Until its vector has learned something, noise alone sets a client's
    model apart, and the noise grows with it. (AvivSham/pFedHN: 1, that of torch.nn.Embedding.)"""

    hyper_width: int = 100
    """Width of the hypernetwork's layers. (AvivSham/pFedHN: 100.)"""

    hyper_layers: int = 3
    """Hidden layers of the hypernetwork after the first. (AvivSham/pFedHN: 3.)"""

    new_exchanges: int = 10
    """Exchanges by which the vector of a new client is found, the hypernetwork frozen."""

    personal_epochs: int = field(default=3, metadata={"absent": 0})
    """Passes by which a client fits its model before it predicts, as many as in fedavgft. 0: none. (AvivSham/pFedHN: none.)"""

    personal_lr: float | None = 0.5
    """Learning rate of these passes. None: lr."""


@dataclass(frozen=True)
class PFedHNOptions(HyperOptions):
    """pFedHN: nothing is kept by a client."""


@dataclass(frozen=True)
class PFedHNPCOptions(HyperOptions):
    """pFedHN-PC: the head is the client's own."""

    personal_epochs: int = field(default=10, metadata={"absent": 0})
    """Passes by which a client fits its head before it predicts, as many as in local and fedrep. 0: none. (AvivSham/pFedHN:
    none.)"""


def resolve(options: HyperOptions, rounds: int) -> HyperOptions:
    """The options with nothing left open that does not depend on the number of clients."""
    return replace(options, vector_lr=vector_rate(options), personal_lr=final_fit(options).lr)


def check(options: HyperOptions) -> None:
    """Raise UserError for an option out of range."""
    check_sgd(sgd(options))
    for name in ("steps", "hyper_width", "hyper_layers", "new_exchanges"):
        check_number(name, getattr(options, name), 1)
    for name in ("hyper_lr", "hyper_decay", "vector_scale"):
        check_number(name, getattr(options, name), 0)
    check_number("hyper_clip", options.hyper_clip, 0, remedy="0 switches clipping off")
    if not 0 <= options.hyper_momentum < 1:
        raise UserError(f"hyper_momentum must be at least 0 and below 1, got {options.hyper_momentum!r}; 0 switches it off")
    check_number("personal_epochs", options.personal_epochs, 0, remedy="0 leaves the final fit out")
    check_rate("personal_lr", options.personal_lr)
    if options.vector_lr is not None:
        check_number("vector_lr", options.vector_lr, 0)
    if options.vector_size is not None:
        check_number("vector_size", options.vector_size, 1)


def sgd(options: HyperOptions) -> Sgd:
    """Of the clients; the number of steps is not counted in epochs."""
    return Sgd(options.lr, 1, options.batch_size, options.clip)


def own_head(options: HyperOptions) -> bool:
    """Whether the head stays with the client."""
    return isinstance(options, PFedHNPCOptions)


def final_fit(options: HyperOptions) -> Sgd:
    """Of the clients before they predict."""
    rate = options.lr if options.personal_lr is None else options.personal_lr
    return Sgd(rate, max(options.personal_epochs, 1), options.batch_size, options.clip)


def targets(options: HyperOptions, model: Model) -> tuple[Tensors, Tensors]:
    """Initial values of (what the hypernetwork writes, what is shared and averaged)."""
    start = initial(model, "global")
    own = head_of(start) if own_head(options) else ()
    written = [name for name in start if name not in own and (options.generated == "all" or name.startswith("gru."))]
    rest = [name for name in start if name not in own and name not in written]
    return {name: start[name] for name in written}, {name: start[name] for name in rest}


def init(options: HyperOptions, model: Model, seed: int, clients: int) -> Tensors:
    """Server state: phi, the clients' vectors [N, D], how often each took part [N], and the shared tensors."""
    written, shared = targets(options, model)
    size = options.vector_size or min(1 + clients // 4, options.hyper_width)
    stream, some = Draw(seed, 0, "hypernetwork").stream(), next(iter(written.values()))
    width, layers = options.hyper_width, options.hyper_layers
    inner = clients * size + size * width + (layers - 1) * width * (width + 1)
    need = nbytes(written) * (1 + width) + inner * some.element_size()
    if need > MOST:
        raise UserError(
            f"generated={options.generated!r} with hyper_width={width}, hyper_layers={layers}, vector_size={size} makes a "
            f"hypernetwork of {need / 2**30:.1f} GB, more than the {MOST / 2**30:.0f} GB that pfedhn allows; "
            f"{'choose gru, or ' if options.generated == 'all' else ''}lower one of these or hidden_size"
        )
    vectors = torch.from_numpy(options.vector_scale * stream.standard_normal((clients, size))).to(some)
    phi = fresh_phi(written, size, width, layers, stream)
    visits = torch.zeros(clients, dtype=torch.int64, device=some.device)
    return {**{n: t.clone() for n, t in shared.items()}, **tagged("phi", phi), VECTORS: vectors, VISITS: visits}


def shared_of(state: Tensors) -> Tensors:
    """The tensors that are averaged."""
    return {name: tensor for name, tensor in state.items() if "/" not in name and name not in (VECTORS, VISITS)}


def average_vector(state: Tensors) -> Tensor:
    """[1, D]: the mean over the clients that took part, where none did over all; where a new client starts."""
    seen = state[VISITS] > 0
    return state[VECTORS][seen if seen.any() else slice(None)].mean(0, keepdim=True)


def general(options: HyperOptions, model: Model, state: Tensors) -> Personal | None:
    """What the hypernetwork makes of the mean vector; none where heads are the clients' own."""
    if own_head(options):
        return None
    made = generate(untagged("phi", state), average_vector(state))
    return Personal({**broadcast(shared_of(state), 1).tensors, **made}, "global")


def download(options: HyperOptions, model: Model, state: Tensors, to: Members) -> Download:
    """theta_i and the shared tensors: all that is sent, and counted.

    For prediction phi and the clients' vectors lie at the server's side, "phi/..", "vector", "new": :func:`personalize`
    computes the server's part of the exchanges from them.
    """
    rows = torch.from_numpy(to.rows).to(state[VECTORS].device)
    predicting = to.phase == "predict"
    new = (rows < 0) | (state[VISITS][rows] == 0)
    vectors = state[VECTORS][rows]  # an unseen client's is not used, since the client is new
    if predicting:
        vectors = torch.where(new.unsqueeze(1), average_vector(state), vectors)
    made, shared = generate_each(untagged("phi", state), vectors), shared_of(state)
    tensors = {**broadcast(shared, len(rows)).tensors, **made}
    sizes = [nbytes(shared) + nbytes({name: tensor[0] for name, tensor in made.items()})] * len(rows)
    if not predicting:
        return Download(tensors, sizes)
    phi = {name: tensor for name, tensor in state.items() if name.startswith("phi/")}
    return Download(tensors, sizes, {**broadcast(phi, len(rows)).tensors, "vector": vectors, "new": new})


def fresh(options: HyperOptions, model: Model, received: Tensors, clients: int) -> Tensors:
    """Client state of PC: the head; a new client's has the initial values, the same for all."""
    start = initial(model, "global")
    return {name: start[name].expand(clients, *start[name].shape) for name in head_of(start)}


def local(options: HyperOptions, model: Model, visit: Visit) -> Upload:
    """K steps on everything at once; uploads Delta = theta_i - theta~_i and the shared tensors, keeps its own head."""
    parameters = copy({**visit.received, **visit.kept.tensors})
    work = advance(options, model, parameters, tuple(parameters), visit.data, visit.draw, "global")
    written = targets(options, model)[0]
    delta = {name: visit.received[name] - parameters[name] for name in written}
    shared = {name: parameters[name] for name in visit.received if name not in written}
    own = {name: parameters[name] for name in visit.kept.tensors}
    return Upload({**shared, **tagged("delta", delta)}, visit.data.sizes(), (work,), own or None)


def advance(
    options: HyperOptions, model: Model, parameters: Tensors, names: tuple[str, ...], data: Data, draw: Draw, label: str
) -> Work:
    """K steps of SGD, in place, each on a batch that is drawn from all of a client's sequences; not epochs."""
    tally, update = Tally(data), Update(names, "global")
    streams = [draw.stream("shuffle", label, id) for id in data.ids]
    steps = [min(options.steps, most) for most in data.most or (options.steps,) * len(data.ids)]
    for step in range(max(steps, default=0)):
        drawn = tuple(
            r[s.permutation(len(r))[: options.batch_size]] if step < own else r[:0]
            for r, s, own in zip(data.rows, streams, steps, strict=True)
        )
        for batch in batches(data._replace(rows=drawn, most=None), options.batch_size):  # one; none where nobody has data
            k = len(batch.lengths)
            loss = descend(model, {name: tensor[:k] for name, tensor in parameters.items()}, batch, update, sgd(options))
            tally.add_mean(batch, loss)
    each = [own * min(size, options.batch_size) for own, size in zip(steps, data.sizes(), strict=True)]
    return tally.work(sum(each), per_token(model, "global", names), each)


def personalize(options: HyperOptions, model: Model, visit: Visit) -> Personal:
    """Fit h(v_i; phi) and the shared tensors to the training texts; of PC the head alone.

    For a new client v_i (and its head) is found first, all else frozen. An exchange: theta = h(v; phi), K steps, Delta, and v
    moves as in training.
    """
    server = visit.server_side
    assert server is not None, "download() says what the server has where clients are to predict"
    phi = {name: tensor[0] for name, tensor in untagged("phi", server).items()}
    vectors, new = server["vector"], server["new"]
    theta = {name: visit.received[name] for name in targets(options, model)[0]}
    shared = {name: tensor for name, tensor in visit.received.items() if name not in theta}
    own = copy(visit.kept.tensors)
    learning = visit.data._replace(
        rows=tuple(r if is_new else r[:0] for r, is_new in zip(visit.data.rows, new.tolist(), strict=True))
    )
    total, buffer = no_work(vectors), torch.zeros_like(vectors)
    for exchange in range(options.new_exchanges if new.any() else 0):
        parameters = {**shared, **copy(theta), **own}
        names = (*theta, *own)
        work = advance(options, model, parameters, names, learning, visit.draw, f"exchange {exchange}")
        total = total.plus(work)
        own = {name: parameters[name] for name in own}
        delta = {name: theta[name] - parameters[name] for name in theta}
        gradient = pull_back_each(phi, vectors, delta)
        gradient *= shrink(options, torch.linalg.vector_norm(gradient, dim=1, keepdim=True))
        moved, buffer = momentum(options, vectors, gradient, buffer, vector_rate(options))
        vectors = torch.where(new.unsqueeze(1), moved, vectors)
        made = generate_each(phi, vectors)
        theta = {name: torch.where(per_client(new, t), made[name], t) for name, t in theta.items()}
    size = nbytes({name: tensor[0] for name, tensor in theta.items()})
    sent = [options.new_exchanges * size if is_new else 0 for is_new in new.tolist()]
    # As much comes back: the theta of the download is the first exchange's, and one more follows the last.
    parameters, fits = copy({**shared, **theta, **own}), []
    if options.personal_epochs:
        update = Update(tuple(own or parameters), "global")
        fits = [train(model, parameters, visit.data, [update], final_fit(options), visit.draw, "personal")]
    return Personal(parameters, "global", phases=(total, *fits), sent=sent, received=sent)


def shrink(options: HyperOptions, norm: Tensor) -> Tensor:
    """What a gradient of this norm is multiplied by."""
    return options.hyper_clip / norm.clamp_min(options.hyper_clip) if options.hyper_clip else torch.ones_like(norm)


def vector_rate(options: HyperOptions) -> float:
    """Learning rate of the vectors."""
    return options.hyper_lr if options.vector_lr is None else options.vector_lr


def momentum(options: HyperOptions, values: Tensor, gradient: Tensor, buffer: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """A step of SGD: b <- beta b + g + lambda x, x <- x - rate b; returns x and b."""
    buffer = options.hyper_momentum * buffer + gradient + options.hyper_decay * values
    return values - rate * buffer, buffer


def hyper_step(options: HyperOptions, state: Tensors, moments: Tensors, rows: Tensor, deltas: Tensors) -> None:
    """One step by n clients, in place: phi by the mean of J_phi^T Delta_i, v_i by its own J_v^T Delta_i.

    rows: int64 [n], the clients' numbers. deltas: [n, ..], what they uploaded.
    """
    phi, vectors = untagged("phi", state), state[VECTORS][rows]
    changes, moved = pull_back(phi, vectors, deltas)
    changes = {name: change / len(rows) for name, change in changes.items()}
    norms = torch.stack([torch.linalg.vector_norm(change) for change in (*changes.values(), moved)])
    scale = shrink(options, torch.linalg.vector_norm(norms))
    for name, change in tagged("phi", changes).items():
        buffer = moments.get(name, torch.zeros_like(change))
        state[name], moments[name] = momentum(options, state[name], scale * change, buffer, options.hyper_lr)
    buffers = moments.get(VECTORS, torch.zeros_like(state[VECTORS]))
    values, buffer = momentum(options, vectors, scale * moved, buffers[rows], vector_rate(options))
    state[VECTORS], moments[VECTORS] = state[VECTORS].index_copy(0, rows, values), buffers.index_copy(0, rows, buffer)


def server_step(
    options: HyperOptions, state: Tensors, moments: Tensors, uploads: Uploads, server_options: ServerOptions, draw: Draw
) -> tuple[Tensors, Tensors]:
    """One step for the round's clients together, or one for each.

    With a cohort of one both are the published step. Vectors of other clients stay, and so does their momentum.
    """
    state, moments = dict(state), dict(moments)
    rows = torch.from_numpy(uploads.rows).to(state[VECTORS].device)
    for members in [slice(None)] if options.server_steps == "together" else [slice(n, n + 1) for n in range(len(rows))]:
        deltas = {name: delta[members] for name, delta in untagged("delta", uploads.each).items()}
        hyper_step(options, state, moments, rows[members], deltas)
    state[VISITS] = state[VISITS].index_add(0, rows, torch.ones_like(rows))
    shared = shared_of(state)
    for name, mean in weighted_mean({name: uploads.each[name] for name in shared}, uploads.weights).items():
        state[name] = mean.to(shared[name].dtype)
    return state, moments


def needs(options: HyperOptions) -> tuple[Part, ...]:
    """The layers that are generated and that stay with the client, by their names."""
    return (*(("gru",) if options.generated == "gru" else ()), *(("head",) if own_head(options) else ()))


ALGORITHM: Algorithm[HyperOptions] = Algorithm(
    name="pfedhn",
    about="A hypernetwork at the server writes each client's GRU from a vector that stands for the client.",
    options=PFedHNOptions,
    needs=needs,
    local=local,
    stopping=lambda options: Stopping(steps=options.steps),
    personalize=personalize,
    resolve=resolve,
    check=check,
    tuned=(Tunable("lr"), Tunable("hyper_lr"), Tunable("vector_lr"), Tunable("steps", "count")),
    init=init,
    download=download,
    general=general,
    one_by_one=True,
    averages=False,
    beyond_the_sum=lambda options: "the server keeps a vector for every client, which is made of that client's uploads alone",
    server_step=server_step,
)
PC = replace(
    ALGORITHM,
    name="pfedhnpc",
    about="pFedHN whose clients keep a head of their own.",
    options=PFedHNPCOptions,
    fresh=fresh,
)
