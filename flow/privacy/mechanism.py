"""What a private run does differently: who takes part, what clients send, and what the server makes of the sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flow.draws import Draw
from flow.errors import UserError
from flow.model.parameters import Rows, Tensors
from flow.privacy import accounting, clipping, sampling, tree
from flow.privacy.accounting import Setting
from flow.privacy.options import PrivacyOptions
from flow.server.uploads import Uploads
from flow.training.messages import Upload
from flow_kernels import training

BELOW = "dp/below"
"""The name under which clients send whether their norm is below the clip."""
CLIP = "clip"


class Released(NamedTuple):
    """What the server has of a round."""

    uploads: Uploads
    """The noisy mean in the place of the uploads, as the only one."""
    carried: Tensors
    """What the next round needs, see :meth:`Mechanism.start`."""


class Mechanism(NamedTuple):
    """The privacy of a run, with every number known."""

    options: PrivacyOptions
    """With noise, delta, clip and the noise of the count filled in."""
    cohort: int
    """Clients that take part in a round, on average; by it the sum is divided, however many they are."""
    clients: int
    """Those that may train."""
    changes: bool = False
    """Whether clients upload changes of the server's state, and not the changed state."""

    @property
    def noise(self) -> float:
        """The noise multiplier that is accounted."""
        return _known(self.options.dp_noise)

    @property
    def delta(self) -> float:
        """Of the epsilon."""
        return _known(self.options.dp_delta)

    @property
    def setting(self) -> Setting:
        """What the accountant is told."""
        mechanism = self.options.dp_mechanism
        if mechanism == "tree":
            return Setting(mechanism, self.noise, steps=self.clients // self.cohort)
        return Setting(mechanism, self.noise, sampling=self.cohort / self.clients)

    @property
    def noise_of_sum(self) -> float:
        """The noise multiplier of the sum of uploads: more than what is accounted where the count takes a part of it."""
        if self.options.dp_quantile is None or not self.noise:
            return self.noise
        return clipping.noise_of_sum(self.noise, _known(self.options.dp_count_noise))

    def epsilon(self, rounds: int) -> float | None:
        """What so many rounds cost; None: there is no bound, since there is no noise."""
        cost = accounting.epsilon(self.setting, rounds, self.delta)
        return cost if math.isfinite(cost) else None

    def recorded(self) -> dict[str, Any]:
        """What config.json keeps beside the options, from which the run goes on."""
        return {
            "noise": self.noise,
            "delta": self.delta,
            "count_noise": self.options.dp_count_noise,
            "accountant": f"{accounting.PACKAGE} {accounting.version()}",
        }

    def start(self) -> Tensors:
        """What is carried from round to round: the clip, float64."""
        return {CLIP: torch.tensor(_known(self.options.dp_clip), dtype=torch.float64)}

    def drawn(self, seed: int, round: int) -> Rows:
        """The numbers of the clients that take part in a round."""
        if self.options.dp_mechanism == "tree":
            return sampling.in_turn(self.clients, self.cohort, round, seed)
        return sampling.independent(self.clients, self.cohort / self.clients, Draw(seed, round, "cohort"))

    def sent(self, upload: Upload, state: Tensors, names: Sequence[str], carried: Tensors) -> Upload:
        """What K clients send: their changes, clipped as a whole, all with the same weight.

        Args:
            state: of the server, from which they started.
            names: of the tensors that clients upload in this round.

        Raises:
            UserError: an algorithm of a user's own uploads other tensors.
        """
        if other := sorted(set(upload.tensors) - set(names)):
            raise UserError(
                f"{self.options.given} needs uploads of tensors that the server's state has, and clients upload {other[0]!r}; "
                "leave it out of the upload, or take another algorithm, such as fedavg"
            )
        changes = upload.tensors
        if not self.changes:
            changes = {name: tensor - state[name] for name, tensor in changes.items()}
        clients, bound = len(upload.weights), float(carried[CLIP])
        tensors, lengths = clipping.clipped(changes, bound)
        if self.options.dp_quantile is not None:
            first = next(iter(tensors.values()))
            tensors = {**tensors, BELOW: clipping.below(lengths, bound).to(first.dtype)}
        return upload._replace(tensors=tensors, weights=[1.0] * clients, voted=(), votes=())

    def released(
        self, uploads: Uploads, state: Tensors, names: Sequence[str], carried: Tensors, seed: int, round: int
    ) -> Released:
        """The sum of a round with noise, over the clients that take part on average; also where nobody took part.

        Args:
            uploads: as :meth:`sent` made them, added up.
            names: of the tensors that clients upload in this round, whoever takes part.
        """
        sums = {name: training.total_of(total) for name, total in uploads.total.items()}
        draw, bound = Draw(seed, round, "privacy"), float(carried[CLIP])
        scale = self.noise_of_sum * bound
        means: Tensors = {}
        for name in names:
            noise = self._noise(name, state[name], round, draw)
            mean = (sums.get(name, torch.zeros_like(noise)) + scale * noise) / self.cohort
            means[name] = (mean if self.changes else state[name].double() + mean).unsqueeze(0)
        if self.options.dp_quantile is not None:
            counted = float(sums.get(BELOW, torch.zeros(())))
            counted += _known(self.options.dp_count_noise) * float(draw.stream("count").standard_normal())
            share = counted / self.cohort + 0.5
            bound = clipping.followed(bound, share, self.options.dp_quantile, _known(self.options.dp_clip_lr))
        alone = Uploads(each=means, rows=np.zeros(1, np.int64), weights=torch.ones(1, dtype=torch.float64))
        return Released(alone, {CLIP: torch.tensor(bound, dtype=torch.float64)})

    def _noise(self, name: str, like: Tensor, round: int, draw: Draw) -> Tensor:
        """Noise for one tensor of the sum, of deviation 1 for every node or round, float64."""
        shape = tuple(like.shape)
        if self.options.dp_mechanism == "tree":
            number, step = sampling.place_in_pass(round, self.clients // self.cohort)
            values = tree.added(name, shape, step, Draw(draw.seed, number, "privacy"))
        else:
            values = draw.stream("noise", name).standard_normal(shape)
        return torch.from_numpy(np.asarray(values)).to(like.device)


def made(options: PrivacyOptions, cohort: int, clients: int, rounds: int, changes: bool = False) -> Mechanism:
    """The privacy of a run of so many rounds; what the options leave open is filled in.

    Args:
        options: resolved, and on.
        cohort: at most as many as the clients.

    Raises:
        UserError: dp-accounting is not installed, delta is too large for so many clients or too small for it, the noise costs
            more than dp_epsilon, or the noise of the count is too small.
    """
    accounting.library()
    delta = clients**-1.1 if options.dp_delta is None else options.dp_delta
    if delta * clients >= 1 and options.dp_delta is not None:
        raise UserError(
            f"dp_delta={delta!r} must be below 1/{clients}, for the {clients} clients that may train: with more, a mechanism "
            "may publish one client's texts; lower it, or leave it out for N^-1.1"
        )
    delta = min(delta, 0.5)  # of a single client
    mechanism = Mechanism(replace(options, dp_delta=delta, dp_noise=options.dp_noise or 0.0), cohort, clients, changes)
    noise, budget = options.dp_noise, options.dp_epsilon
    if noise is None:
        assert budget is not None
        noise = accounting.least_noise(mechanism.setting, rounds, budget, delta)
    elif budget is not None:
        cost = accounting.epsilon(mechanism.setting, rounds, delta)
        if cost > budget * (1 + 1e-9):
            raise UserError(
                f"dp_noise={noise!r} over rounds={rounds} costs an epsilon of {cost:.6g}, more than dp_epsilon={budget!r}; "
                "give fewer rounds, or start a new run with more noise"
            )
    options = replace(mechanism.options, dp_noise=noise)
    if noise and not math.isfinite(accounting.epsilon(mechanism._replace(options=options).setting, rounds, delta)):
        raise UserError(f"dp_delta={delta!r} is too small for {accounting.PACKAGE} to tell from 0; raise it")
    if options.dp_quantile is not None:
        options = replace(options, dp_count_noise=_count_noise(options, cohort, noise))
    return mechanism._replace(options=options)


def _count_noise(options: PrivacyOptions, cohort: int, noise: float) -> float:
    """The noise on the number of uploads below the clip."""
    if not noise:
        return 0.0
    count = max(cohort / 20, noise) if options.dp_count_noise is None else options.dp_count_noise
    if 2 * count <= noise:
        raise UserError(
            f"dp_count_noise={count!r} must be above half of the noise multiplier, {noise:.4g}, which the count of uploads "
            "below the clip takes a part of; raise it, or leave it out for the default"
        )
    return count


def _known(value: float | None) -> float:
    """A number that :func:`made` has filled in."""
    assert value is not None
    return value
