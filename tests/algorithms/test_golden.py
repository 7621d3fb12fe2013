"""Steps held against numbers that the authors' own code printed, run on the same small inputs in float64.

The oracles restate the formulas of docs/algorithms.md, and so would share a misreading of a paper. These numbers come from the
released code of three papers, of which nothing is copied. Inputs are sines of the place, outputs are two sums over a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import harness
import numpy as np
import pytest
import torch
from harness import Bench, row
from torch import Tensor

from flow.algorithms import fedfomo
from flow.algorithms.fedfomo import FedFomoOptions
from flow.algorithms.fedper import FedPerOptions
from flow.algorithms.fedrep import FedRepOptions
from flow.algorithms.pfedhn import PFedHNOptions, hyper_step
from flow.data import Client, Sequences
from flow.model.parameters import Tensors, tagged

NAMES = (
    "embedding.weight", "gru.weight_ih_l0", "gru.weight_hh_l0", "gru.bias_ih_l0", "gru.bias_hh_l0", "head.weight", "head.bias",
)  # fmt: skip
SHAPES = ((9, 3), (12, 3), (12, 4), (12,), (12,), (9, 4), (9,))


def filled(shape: Sequence[int], number: int, scale: float = 0.5) -> Tensor:
    """The input: a tensor of this number."""
    return (scale * torch.sin(1 + 0.7 * number + 0.37 * torch.arange(int(np.prod(shape))).double())).view(shape)


def model(number: int) -> Tensors:
    """A language model with 9 tokens, 3 numbers each, and 4 units."""
    return {name: filled(shape, n + 10 * number) for n, (name, shape) in enumerate(zip(NAMES, SHAPES, strict=True))}


def same(actual: Tensors, printed: Sequence[tuple[float, float]]) -> None:
    """Two sums over every tensor: plain, and with the cosine of the place."""
    assert len(actual) == len(printed)
    for (name, tensor), expected in zip(actual.items(), printed, strict=True):
        flat = tensor.double().flatten()
        sums = [float(flat.sum()), float(flat @ torch.cos(torch.arange(len(flat)).double()))]
        assert sums == pytest.approx(expected, rel=1e-9, abs=1e-11), name


def reader() -> Client:
    """A client with five sequences of six targets, which are one batch."""
    tokens = np.array([[1 + (3 * i + 5 * t + i * t) % 8 for t in range(7)] for i in range(5)], np.int32)
    sequences = Sequences(tokens, np.full(5, 6, np.int32))
    return Client(harness.TRAINING[0].id, "", False, 5, sequences, sequences)


# ---- FedRep: lgcollins/FedRep at d82e62982e107bb3322541604f059c0ff28bd289, models/Update.py, LocalUpdate.train ----------
# All parameters in the group that has no weight decay there; lr 0.3, momentum 0.5; a batch an epoch.

SGD: dict[str, Any] = {"lr": 0.3, "batch_size": 5, "momentum": 0.5, "clip": 0.0}
LOCAL_WORK = {
    "fedrep: three epochs of the head, two of the body": (FedRepOptions(**SGD, head_epochs=3, epochs=2), [
        (1.1492665244938025, -0.5205062764378883), (0.8169363349065698, -0.010250333375190435),
        (-1.3379915561267417, 0.06443951464999575), (-1.7614432382870342, -0.26740869898541775),
        (-0.8513876327676171, -0.5374246634683277), (-0.99997164170698, 0.12567704503063104),
        (1.0458715446055673, -0.25950144341068726),
    ]),
    "fedper: five epochs of both": (FedPerOptions(**SGD, epochs=5), [
        (1.0727709949887958, -0.5491697680721366), (0.5940187244226678, -0.0018971616382419398),
        (-1.2345673022957306, 0.08920122667047603), (-1.456986682403623, -0.4035016930456492),
        (-0.7255532921320336, -0.5829221032931426), (-0.9999716417069798, 0.02044217034804635),
        (1.0458715446055673, -0.581308399326651),
    ]),
}  # fmt: skip
BEFORE_THE_TEST = [
    (1.1896000338947474, -0.5000886683098291), (0.9490885405553924, -0.017193533919146076),
    (-1.4016813477199521, 0.05719000365895277), (-1.9747166497145558, -0.17360322646957896),
    (-0.9382518221700318, -0.5060156030842541), (-0.9999716417069799, -0.024423121654703117),
    (1.0458715446055673, -1.1106475051331806),
]  # fmt: skip


def bench_of(options: Any) -> Bench:
    bench = Bench(options)
    bench.state = model(0)
    return bench


@pytest.mark.parametrize(("options", "printed"), LOCAL_WORK.values(), ids=LOCAL_WORK)
def test_local_work_of_fedrep_and_fedper(options: Any, printed: Sequence[tuple[float, float]]) -> None:
    sent = row(bench_of(options).local([reader()]).tensors, 0)
    same({name: sent[name] for name in NAMES}, printed)


def test_the_head_before_the_test_in_fedrep() -> None:
    """Ten epochs of the head alone."""
    own = row(bench_of(FedRepOptions(**SGD, personal_epochs=10)).personalize([reader()]).parameters, 0)
    same({name: own[name] for name in NAMES}, BEFORE_THE_TEST)


# ---- FedFomo: NVlabs/FedFomo at fe04f6641407bce4fc58ea3fbf8cb314f9af8629, federation.py, compute_fomo_weights, -----------
# update_client_weights and federate; norm l1, baseline_model first_model. The models' losses are those of the language model.


def test_weights_and_mixture_of_fedfomo() -> None:
    """The client's model before its training is number 2, after it 1; those of others are 3 to 6."""
    options = FedFomoOptions(models=4, mean_candidate=False, weighing_share=0.5)
    bench = Bench(options)
    visit = bench.visit([reader()])
    others = [model(number) for number in (3, 4, 5, 6)]
    received = {f"others/{name}": torch.stack([other[name] for other in others])[None] for name in NAMES}
    own, before = ({name: tensor[None] for name, tensor in model(number).items()} for number in (1, 2))
    known = torch.ones(1, dtype=torch.bool)
    visit = visit._replace(
        received={**received, "sender": torch.tensor([[1, 2, 3, 4]])},
        kept=visit.kept._replace(tensors={**tagged("model", own), **tagged("before", before)}, known=known),
    )
    mixed, weights, _ = fedfomo.federate(bench.options, bench.model, visit, own, visit.data)
    printed = [
        0.0021669166014833007, 0.00012125326803110019, 0.0017307400241603512, 0.0008335343584754239, -0.000464877907907255,
    ]  # fmt: skip
    assert weights[0].tolist() == pytest.approx(printed, rel=1e-9)
    same(row(mixed, 0), [
        (-0.9927618248829646, 0.17501656834228907), (-0.27312154305835723, 0.2059941944291227),
        (0.2932956161463822, 0.006535285431162774), (0.6463397130817701, -0.16497383007994013),
        (0.823070722962765, -0.02291133344323133), (0.1686450412610593, -0.22753891334963228),
        (0.6583672970945356, -0.09550810231044532),
    ])  # fmt: skip


# ---- pFedHN: AvivSham/pFedHN at 1bc054975232bdd6985f931030753ebbab48c56d, experiments/pfedhn/trainer.py, train -----------
# CNNHyper with 5 nodes, vectors of 2 numbers, width 6, two hidden layers and one kernel; every step is of node 2, with Delta
# given; lr 0.05, vectors 0.2, momentum 0.9, decay 1e-3, clip 50.

LAYERS = ("in", "hidden0", "hidden1")
WRITTEN = {
    "conv1.weight": (1, 3, 5, 5), "conv1.bias": (1,), "conv2.weight": (2, 1, 5, 5), "conv2.bias": (2,), "fc1.weight": (120, 50),
    "fc1.bias": (120,), "fc2.weight": (84, 120), "fc2.bias": (84,), "fc3.weight": (10, 84), "fc3.bias": (10,),
}  # fmt: skip
PRINTED = {
    1: [
        (0.2705015699082679, 0.23086360527078773), (-0.7264205123037778, 0.32484010481496234),
        (-0.26640909169105137, 0.42406185998640783), (-0.08980657577987372, 0.353965502643769),
        (-1.460613575737419, 0.20680555287287022), (-0.5999529858749368, 0.13064061488468837),
        (-0.22839477966496485, -0.35435335416819524), (1.3728079753209785, -0.13242050440048145),
        (1.5610436218609152, -0.2651331545055761), (1.3614612182240942, -0.05503951539400567),
        (0.296264304799336, 0.296264304799336), (-1.3086976987156138, 0.10112920250811808),
        (-0.10618273749811102, -0.06583813678383937), (-0.5435457886842257, -0.30761783056449876),
        (-0.5880156044259993, -0.4526363173768567), (0.2825702720021112, -0.19627689164687356),
        (0.627269771986898, -0.4666641147126511), (1.5269356866228851, 0.019511728975056403),
        (0.2954167637566234, 0.13628806722804301), (0.008377824832999536, 0.40741142208918807),
        (-1.2787108178295612, 0.11514233412330208), (-1.2857835622392169, 0.409190149172278),
        (0.09081612297990183, -0.01856825286854291), (0.5220699455714138, -0.2284281709027556),
        (0.36216761015071647, -0.41805635425356624), (1.4737068723170097, -0.04498765497530177),
        (1.41739220876528, 0.031361318952716294),
    ],
    3: [
        (0.27025216951487124, 0.2306507507797952), (-0.726253072720668, 0.3247652293250685),
        (-0.26634768452193397, 0.4239641139290674), (-0.08978587540680538, 0.35388391376350736),
        (-1.4602769050018551, 0.20675788429114472), (-0.5998146969966094, 0.13061050228499846),
        (-0.2299837294844984, -0.3716613192596708), (1.373225813113813, -0.13143386097196957),
        (1.55747394821565, -0.2714666490269194), (1.3617045550795843, -0.05416209817877271),
        (0.29376042520338524, 0.29376042520338524), (-1.3086101027960049, 0.10599731508272475),
        (-0.10522250805081013, -0.06486862824061196), (-0.5451960466746156, -0.3108985664267963),
        (-0.5801182834899433, -0.4467554697405205), (0.27912510813260705, -0.18948919996929392),
        (0.6419009726405667, -0.4642729255223553), (1.5256718661649633, 0.04233235629564577),
        (0.29933487137296, 0.1383095938627598), (0.013870306354690887, 0.435035871862639),
        (-1.3024348646879431, 0.11898105531205638), (-1.2856292870423613, 0.4280312828786199),
        (0.09141636734842373, -0.017240159694222407), (0.525456628573633, -0.2510961755397912),
        (0.3467532160293618, -0.4229025990391261), (1.471093983079887, -0.04668189362278663),
        (1.427002781798239, 0.02939171123042586),
    ],
}  # fmt: skip


@pytest.mark.parametrize("steps", PRINTED)
def test_the_servers_step_of_pfedhn(steps: int) -> None:
    """Vector 2, then the layers from below, then for every tensor the weight and the bias of the layer that writes it."""
    options = PFedHNOptions(hyper_lr=0.05, vector_lr=0.2, hyper_momentum=0.9, hyper_decay=1e-3, hyper_clip=50.0)
    state, number = {"vectors": filled((5, 2), 0, 0.3)}, 1
    for n, layer in enumerate(LAYERS):
        state[f"phi/{layer}.weight"] = filled((6, 2 if n == 0 else 6), number, 0.3)
        state[f"phi/{layer}.bias"] = filled((6,), number + 1, 0.3)
        number += 2
    for name, shape in WRITTEN.items():
        state[f"phi/out.{name}.weight"] = filled((*shape, 6), number, 0.3)
        state[f"phi/out.{name}.bias"] = filled(shape, number + 1, 0.3)
        number += 2
    deltas = {name: filled(shape, 100 + n, 0.02)[None] for n, (name, shape) in enumerate(WRITTEN.items())}
    moments: Tensors = {}
    for _ in range(steps):
        hyper_step(options, state, moments, torch.tensor([2]), deltas)
    actual = {"vector": state["vectors"][2], **{name: tensor for name, tensor in state.items() if name != "vectors"}}
    same(actual, PRINTED[steps])
