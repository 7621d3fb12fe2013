"""A module of the user's own in the place of the language model: any ``torch.nn.Module`` from tokens to logits."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from flow.model.interface import Model, Part, Prediction
from flow.model.language_model import Parameters
from flow.model.parameters import Tensors

BODY, HEAD = "body", "head"
TRIED = 5  # tokens of a sequence on which a module is tried
CLIENTS = 4  # side by side when it is tried
CLOSE = {torch.float32: 1e-4, torch.float64: 1e-9}  # relative: side by side and one by one


class Refused(ValueError):
    """A module that clients cannot train; the message says why and what to do."""


class UserModule(Model):
    """A module whose forward takes int64 tokens [B, T] and gives logits [B, T, V], for one client or for K side by side.

    A classifier gives logits [B, C], or [B, T, C] of which those after a text's last token count. A forward with a parameter of
    the name ``lengths`` gets int64 [B] too, how many tokens of each row are no padding.

    Its parameters that require a gradient are those that clients train; what does not, and buffers, are the same for all. A
    parameter ``a.b`` has the name ``body.model/a/b`` here, and ``head.model/a/b`` where it belongs to the head; so no name of
    the user's is taken for one of the local expert or the router.

    K clients are computed side by side by ``torch.func.vmap`` where torch can, and one by one where it cannot. Both ways are
    tried when the module comes in, and have to agree.

    Args:
        module: of the user. It is kept as it is and not changed.
        vocabulary_size: number V of tokens.
        head: the name of the submodule that is the output layer; empty for none.
        oov: the tokens that unknown words share.
        classes: number C of classes of a classifier; 0: the next token is predicted.

    Attributes:
        side_by_side: whether clients are computed side by side.
        reason: why they are not; empty where they are.
        milliseconds: of a step of 4 clients (2 sequences of 5 tokens each), side by side and one by one, as they were tried.
        evaluates: whether the module is used in evaluation mode in training too, since it draws random numbers otherwise.

    Raises:
        Refused: the module has another output, no parameters to train, no such head, or statistics of batches; or a classifier
            looks at padding.
    """

    def __init__(
        self, module: nn.Module, vocabulary_size: int, head: str = "", oov: tuple[int, ...] = (1,), classes: int = 0
    ) -> None:
        super().__init__()
        self.vocabulary_size, self.outputs, self.oov, self.head_name = vocabulary_size, classes or vocabulary_size, oov, head
        self.classifies = bool(classes)
        self._takes_lengths = "lengths" in inspect.signature(module.forward).parameters
        names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        in_head = {name for name in names if head and name.startswith(f"{head}.")}
        _check_parameters(module, names, in_head, head)
        self._names = {name: f"{HEAD if name in in_head else BODY}.model/{name.replace('.', '/')}" for name in names}
        # In a tuple it is no submodule: its parameters stand below under their names here, and are put in at every call.
        self._skeleton = (module,)
        values = dict(module.named_parameters())
        device, dtype = values[names[0]].device, values[names[0]].dtype
        for part, own in ((BODY, set(names) - in_head), (HEAD, in_head)):
            shapes = {self._names[name].partition(".")[2]: tuple(values[name].shape) for name in names if name in own}
            self.add_module(part, Parameters(shapes, device, dtype))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(next(values[own] for own in names if self._names[own] == name))
        known: set[Part] = {"head", "features"} if in_head else set()
        self.provides: frozenset[Part] = frozenset(known if classes else known | {"next_token"})
        self.side_by_side, self.reason, self.milliseconds = False, "", (0.0, 0.0)
        self.evaluates = False
        self._try()

    def _apply(self, function: Callable[..., Any], recurse: bool = True) -> UserModule:
        self._skeleton[0]._apply(function, recurse)
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(
        self, tokens: Tensor, lengths: Tensor | None = None, *, route: str = "global", routing: str = "soft"
    ) -> Prediction:
        """Predict the token after every position; see :class:`flow.model.interface.Model`.

        Args:
            tokens: int64 [B, T], or [K, B, T] together with parameters that have a leading K.
            lengths: [B] or [K, B], for a module that takes them; None means all T. What is predicted past the end of a sequence
                counts nowhere.
            route: ``"global"``: there is one model and no other.
            routing: not looked at: nothing is routed.
        """
        if route != "global":
            raise ValueError(f"route={route!r} must be 'global': a module of the user's own has no second expert")
        parameters = {own: self._parameter(name) for own, name in self._names.items()}
        if lengths is None:
            lengths = torch.full(tokens.shape[:-1], tokens.shape[-1], dtype=torch.long, device=tokens.device)
        with self._products(tokens):
            if tokens.dim() == 2:
                logits, features = self._call(parameters, tokens, lengths)
            elif self.side_by_side:
                logits, features = vmap(self._call, randomness="error")(parameters, tokens, lengths)
            else:
                logits, features = self._one_by_one(parameters, tokens, lengths)
        only_global = logits.new_tensor([1.0, 0.0]).expand(*tokens.shape, 2)
        return self._plain(Prediction(logits, only_global, None, features, ()))

    def flops(self, trained: frozenset[str]) -> int:
        """Floating-point operations for one token, estimated.

        Two a weight forward, two for the gradient of a trained weight, and two a weight for what is carried down (Kaplan et al.
        2020, arXiv 2001.08361, section 2.1).

        Tables of embeddings are looked up and do not count. What a module computes without a weight of its own, such as the
        scores of attention, or a weight that is used several times for a token, is not known.

        Args:
            trained: names of the parameters that get a gradient; empty: the forward pass alone.
        """
        tables = {id(m.weight) for m in self._skeleton[0].modules() if isinstance(m, nn.Embedding)}
        sizes = {name: p.numel() for name, p in self._skeleton[0].named_parameters() if p.dim() > 1 and id(p) not in tables}
        forward = 2 * sum(sizes.values())
        return forward + (forward if trained else 0) + 2 * sum(n for own, n in sizes.items() if self._names.get(own) in trained)

    def _parameter(self, name: str) -> Tensor:
        """A parameter as it is at this moment (functional_call swaps them)."""
        part, _, leaf = name.partition(".")
        tensor: Tensor = getattr(getattr(self, part), leaf)
        return tensor

    def _called(self, parameters: Tensors, tokens: Tensor, lengths: Tensor) -> Tensor:
        """What the module gives for one client."""
        given = {"lengths": lengths} if self._takes_lengths else {}
        logits: Tensor = functional_call(self._skeleton[0], parameters, (tokens,), given)
        return logits

    def _call(self, parameters: Tensors, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, T, V], and what the head reads, of one client; what a classifier says of a whole text stands at all T."""
        with self._reading_head() as read:
            logits = self._called(parameters, tokens, lengths)
        features = read[0] if read else logits[..., :0]
        logits, features = (
            part.unsqueeze(1).expand(-1, tokens.shape[1], -1) if part.dim() == 2 else part for part in (logits, features)
        )
        return logits, features

    def _one_by_one(self, parameters: Tensors, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        clients = [self._call({name: p[k] for name, p in parameters.items()}, own, lengths[k]) for k, own in enumerate(tokens)]
        return torch.stack([logits for logits, _ in clients]), torch.stack([features for _, features in clients])

    @contextmanager
    def _reading_head(self) -> Iterator[list[Tensor]]:
        """What the head is given, once it was called."""
        read: list[Tensor] = []
        if "features" not in self.provides:
            yield read
            return

        def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            read[:] = inputs[:1]

        handle = self._skeleton[0].get_submodule(self.head_name).register_forward_pre_hook(keep)
        try:
            yield read
        finally:
            handle.remove()

    def _try(self) -> None:
        """Run the module once, and see whether clients may be computed side by side."""
        module = self._skeleton[0]
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        start = {own: self._parameter(name).detach() for own, name in self._names.items()}
        device = next(iter(start.values())).device
        draw = torch.Generator().manual_seed(0)
        tokens = torch.randint(self.vocabulary_size, (CLIENTS, 2, TRIED), generator=draw).to(device)
        lengths = torch.full((CLIENTS, 2), TRIED, device=device)
        module.train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            first, second = (self._output(start, tokens[0], lengths[0]) for _ in range(2))
        changed = [name for name, buffer in module.named_buffers() if not torch.equal(buffer, buffers[name])]
        if changed:
            raise Refused(
                f"the buffer {changed[0]!r} changes while the module is used, as the statistics of batch normalisation do, and "
                "all clients would share it; use LayerNorm or GroupNorm"
            )
        if not torch.equal(first, second):
            module.eval()
            self.evaluates = True
        if self.classifies:
            self._try_padding(start, tokens[0].clamp_min(1), lengths[0])
        stacked = {name: torch.stack([p * (1 + k / 100) for k in range(CLIENTS)]) for name, p in start.items()}
        alone, slow = _timed(lambda: self._gradients(stacked, tokens, lengths, self._one_by_one))
        try:
            together, fast = _timed(lambda: self._gradients(stacked, tokens, lengths, vmap(self._call, randomness="error")))
            with torch.no_grad():
                vmap(self._call, randomness="error")(stacked, tokens, lengths)
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            self.reason = f"torch cannot compute its clients side by side ({_first_line(error)})"
            return
        tolerance = CLOSE.get(alone[0].dtype, 1e-2)
        for own, other in zip(alone, together, strict=True):
            scale = float(own.abs().max())
            if not torch.allclose(own, other, rtol=tolerance, atol=tolerance * max(scale, 1e-6), equal_nan=True):
                self.reason = "its clients side by side have other numbers than one by one"
                return
        self.side_by_side, self.milliseconds = True, (fast, slow)

    def _output(self, parameters: Tensors, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The logits of one client, whose shape is looked at."""
        every = [(*tokens.shape, self.outputs), *([(len(tokens), self.outputs)] if self.classifies else [])]
        names = "[B, C] or [B, T, C]" if self.classifies else "[B, T, V]"
        logits = self._called(parameters, tokens, lengths)
        if not isinstance(logits, Tensor):
            raise Refused(f"forward gives a {type(logits).__name__}, and must give logits, a tensor {names}; return them alone")
        if tuple(logits.shape) not in every or not logits.is_floating_point():
            wanted = " or ".join(str(list(shape)) for shape in reversed(every))
            raise Refused(
                f"forward gives {logits.dtype} {list(logits.shape)} for tokens {list(tokens.shape)}, and must give logits "
                f"{wanted} ({names}); correct the module"
            )
        return logits

    def _try_padding(self, parameters: Tensors, tokens: Tensor, lengths: Tensor) -> None:
        """Refuse a classifier whose scores of a text depend on the padding after it."""
        size = TRIED - 2  # no more than TRIED with the padding: a module may know no further position
        plain_tokens, own = tokens[:, :size], torch.full_like(lengths, size)
        with torch.no_grad():
            plain, _ = self._call(parameters, plain_tokens, own)
            longer, _ = self._call(parameters, torch.nn.functional.pad(plain_tokens, (0, TRIED - size)), own)
        last = size - 1
        tolerance = CLOSE.get(plain.dtype, 1e-2)
        if not torch.allclose(plain[:, last], longer[:, last], rtol=tolerance, atol=tolerance, equal_nan=True):
            raise Refused(
                "its scores of a text change with the padding after it, token 0, so a client's numbers would depend on the "
                "longest text in its batch; leave token 0 out of sums and means, or give forward a parameter lengths"
            )

    def _gradients(
        self, stacked: Tensors, tokens: Tensor, lengths: Tensor, call: Callable[..., tuple[Tensor, Tensor]]
    ) -> list[Tensor]:
        """The logits of several clients and the gradients of a loss, on which both ways have to agree."""
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in stacked.items()}
        with torch.enable_grad():
            logits, _ = call(leaves, tokens, lengths)
            loss = logits.log_softmax(-1)[..., 0].sum()
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return [logits.detach(), *gradients]


def _check_parameters(module: nn.Module, names: list[str], in_head: set[str], head: str) -> None:
    if not names:
        raise Refused("the module has no parameter that requires a gradient, so there is nothing to train; give it some")
    kinds = {str(parameter.dtype) for parameter in module.parameters() if parameter.requires_grad}
    if len(kinds) > 1:
        raise Refused(f"its parameters have the types {' and '.join(sorted(kinds))}, and must have one; make them one")
    if head and head not in dict(module.named_modules()):
        children = ", ".join(repr(name) for name, _ in module.named_children()) or "none"
        raise Refused(f"head={head!r} is no submodule; give one of these, or leave head out: {children}")
    if head and not in_head:
        raise Refused(
            f"head={head!r} has no parameter of its own that requires a gradient (a shared weight counts for the module that "
            "has it first); leave head out, or give the layer a weight of its own"
        )
    if in_head == set(names):
        raise Refused(f"head={head!r} holds all parameters, and the body none; name the output layer alone")


def _timed(function: Callable[[], list[Tensor]]) -> tuple[list[Tensor], float]:
    """What a function returns, and its milliseconds the second time."""
    function()
    begin = time.perf_counter()
    result = function()
    return result, 1000 * (time.perf_counter() - begin)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
