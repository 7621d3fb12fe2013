"""RoutedGRU: the routed GRU as a layer that takes the place of torch.nn.GRU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flow_kernels.modules.base import Routed
from flow_kernels.modules.stack import Stack


class RoutedGRU(Routed, Stack):
    """A GRU with a global expert, a local expert and a router that mixes the two at every step.

    The first nine arguments, ``forward(input, hx)``, the shapes and the errors are those of ``torch.nn.GRU``. The
    global expert carries its parameter names, so a checkpoint of ``torch.nn.GRU`` loads (see :meth:`load_state_dict`),
    and a layer made after the same ``torch.manual_seed`` starts with exactly its numbers.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as in
            ``torch.nn.GRU``. ``bias=False`` also drops the router's bias.
        temperature: the router's logits are divided by it; > 0. An ordinary attribute that may change while training.
        routing: ``"soft"``, ``"hard"`` or ``"straight_through"``, see :func:`flow_kernels.routed_gru`.
        num_clients: K independent layers side by side, one per client: a leading K on every parameter and on input,
            hx, output, h_n and q. The parameters start as those of K layers made one after the other.
        backend: ``"auto"`` or the name of one backend, see :func:`flow_kernels.backends`.

    Attributes:
        recompute: False. Set to True for less memory and more time in training, see :func:`flow_kernels.routed_gru`.

    Parameters, for every layer n (``_reverse`` appended for the second direction; I is the input size of that layer):
        weight_ih_l{n} [3H, I], weight_hh_l{n} [3H, H], bias_ih_l{n} [3H], bias_hh_l{n} [3H]: the global expert
        local_weight_ih_l{n}, local_weight_hh_l{n}, local_bias_ih_l{n}, local_bias_hh_l{n}: the local expert
        router_weight_l{n} [2, I + H] (columns of the input first), router_bias_l{n} [2]: row 0 is the global expert

    With ``route="global"`` or ``"local"`` the parameters of the other expert and of the router take no part in a call, and
    their ``.grad`` stays None. For one expert and nothing else there is :class:`flow_kernels.GRU`.

    Raises:
        ValueError, TypeError: for an argument that torch.nn.GRU refuses too, or a wrong temperature, routing,
            num_clients or backend.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        temperature: float = 1.0,
        routing: str = "soft",
        num_clients: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device,
            dtype,
            temperature=temperature,
            routing=routing,
            num_clients=num_clients,
            backend=backend,
        )

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        route: str = "mixture",
        return_routing: bool = False,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor] | tuple[Tensor | PackedSequence, Tensor, Tensor]:
        """Run the layer over whole sequences. L layers, D directions, H hidden size.

        Args:
            input: [T, B, I], with ``batch_first`` [B, T, I], unbatched [T, I], or a PackedSequence. With
                ``num_clients=K`` [K, T, B, I], with ``batch_first`` [K, B, T, I], and nothing else.
            hx: [L * D, B, H], unbatched [L * D, H], with clients [K, L * D, B, H]; None means zeros. For a
                PackedSequence in the order of the sequences that were packed.
            route: ``"mixture"``, or ``"global"`` / ``"local"`` for one expert alone.
            return_routing: return q too.
            lengths: number of valid steps of every sequence of a padded input, int64 [B] or [K, B], each in 1..T. The
                second direction starts at a sequence's own last step. Not for packed and unbatched input.

        Returns:
            output [T, B, D * H] in the form of input, zero past a sequence's length; h_n in the form of hx, which
            ``batch_first`` does not change; and with ``return_routing`` the routing weights q [L * D, T, B, 2]
            (``batch_first`` [L * D, B, T, 2], unbatched [L * D, T, 2], with clients a leading K): global, local, zero
            past the length, at the time step that was read, also for the second direction. For a PackedSequence q is
            padded, [L * D, T, B, 2] whatever ``batch_first`` is, in the order of the sequences that were packed.

        Under ``torch.autocast`` in bfloat16 a float32 layer computes with its weights, input and hx in bfloat16. Otherwise it
        computes in the dtype of its parameters, to which it converts input and hx.

        Raises:
            ValueError, RuntimeError: as torch.nn.GRU for a wrong shape or dtype; ValueError for a wrong route or length, or
                for a tensor that is not dense; TypeError for what is no tensor.
        """
        output, h_n, q = self._call(input, hx, self._choices(route), return_routing, lengths)
        return (output, h_n) if q is None else (output, h_n, q)
