"""GRU: one expert and nothing else, torch.nn.GRU on the kernels of this package."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flow_kernels.modules.stack import Stack

_ONE_EXPERT = {"route": "global"}


class GRU(Stack):
    """``torch.nn.GRU`` on the kernels of :class:`flow_kernels.RoutedGRU`: what that computes with ``route="global"``.

    The arguments, ``forward(input, hx)``, the shapes, the errors and the names of the parameters are those of
    ``torch.nn.GRU``, so either loads the other's state_dict. After the same ``torch.manual_seed`` both start with the same
    numbers. Every parameter takes part in every call.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as in
            ``torch.nn.GRU``.
        num_clients: K independent layers side by side, one per client: a leading K on every parameter and on input,
            hx, output and h_n. The parameters start as those of K layers made one after the other.
        backend: ``"auto"`` or the name of one backend, see :func:`flow_kernels.backends`.

    Attributes:
        recompute: False. Set to True for less memory and more time in training, see :func:`flow_kernels.routed_gru`.

    Parameters, for every layer n (``_reverse`` appended for the second direction; I is the input size of that layer):
        weight_ih_l{n} [3H, I], weight_hh_l{n} [3H, H], bias_ih_l{n} [3H], bias_hh_l{n} [3H]

    Raises:
        ValueError, TypeError: for an argument that torch.nn.GRU refuses too, or a wrong num_clients or backend.
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
        num_clients: int | None = None,
        backend: str = "auto",
        **unsupported: Any,
    ) -> None:
        if "proj_size" in unsupported:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if unsupported:
            raise TypeError(f"GRU has no argument {next(iter(unsupported))!r}; the options of routing belong to RoutedGRU")
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
            num_clients=num_clients,
            backend=backend,
        )

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run the layer over whole sequences. L layers, D directions, H hidden size.

        Args:
            input: [T, B, I], with ``batch_first`` [B, T, I], unbatched [T, I], or a PackedSequence. With
                ``num_clients=K`` [K, T, B, I], with ``batch_first`` [K, B, T, I], and nothing else.
            hx: [L * D, B, H], unbatched [L * D, H], with clients [K, L * D, B, H]; None means zeros. For a
                PackedSequence in the order of the sequences that were packed.
            lengths: number of valid steps of every sequence of a padded input, int64 [B] or [K, B], each in 1..T. The
                second direction starts at a sequence's own last step. Not for packed and unbatched input.

        Returns:
            output [T, B, D * H] in the form of input, zero past a sequence's length, and h_n in the form of hx, which
            ``batch_first`` does not change.

        Under ``torch.autocast`` in bfloat16 a float32 layer computes with its weights, input and hx in bfloat16. Otherwise it
        computes in the dtype of its parameters, to which it converts input and hx.

        Raises:
            ValueError, RuntimeError: as torch.nn.GRU for a wrong shape or dtype; ValueError for a wrong length, or for a tensor
                that is not dense; TypeError for what is no tensor.
        """
        output, h_n, _ = self._call(input, hx, _ONE_EXPERT, False, lengths)
        return output, h_n
