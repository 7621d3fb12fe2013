"""Options with which every algorithm is tested in general: small, with every phase doing something."""

from typing import Any

from flow.algorithms.apfl import APFLOptions
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.dynamic_routing import DynamicRoutingOptions
from flow.algorithms.fedalt import FedAltOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.fedavgft import FedAvgFTOptions
from flow.algorithms.fedbabu import FedBABUOptions
from flow.algorithms.fedfomo import FedFomoOptions
from flow.algorithms.fedper import FedPerOptions
from flow.algorithms.fedprox import FedProxOptions
from flow.algorithms.fedrecon import FedReconOptions
from flow.algorithms.fedrep import FedRepOptions
from flow.algorithms.fedsim import FedSimOptions
from flow.algorithms.ffgg import FFGGOptions
from flow.algorithms.flow import FlowOptions
from flow.algorithms.hypcluster import HypClusterOptions
from flow.algorithms.knnper import KNNPerOptions
from flow.algorithms.lgfedavg import LGFedAvgOptions
from flow.algorithms.local import LocalOptions
from flow.algorithms.ngram import NGramOptions
from flow.algorithms.partialfed import PartialFedOptions
from flow.algorithms.perfedavg import PerFedAvgOptions
from flow.algorithms.pfedhn import PFedHNOptions, PFedHNPCOptions
from flow.algorithms.privategate import PrivateGateOptions

SMALL: dict[str, Any] = {"lr": 0.5, "batch_size": 2}
CASES: dict[str, Any] = {
    "fedavg": FedAvgOptions(**SMALL),
    "flow": FlowOptions(**SMALL, variant="neurips", epochs=2),
    "flow, decoupled": FlowOptions(**SMALL, gate="cell", router_share=0.7, adapt_epochs=1),
    "flow, both": FlowOptions(**SMALL, memory=True, memory_tokens=20),
    "flow, constant": FlowOptions(**SMALL, gate="constant"),
    "flow, adamw": FlowOptions(
        lr=0.03, personal_lr=0.02, router_lr=0.02, batch_size=2, client_optimizer="adamw", weight_decay=0.01
    ),
    "flow, workshop": FlowOptions(**SMALL, variant="workshop"),
    "flow, instance": FlowOptions(**SMALL, variant="neurips", ablation="instance"),
    "flow, client": FlowOptions(**SMALL, variant="neurips", ablation="client"),
    "local": LocalOptions(**SMALL, personal_epochs=2),
    "fedavgft": FedAvgFTOptions(**SMALL),
    "fedprox": FedProxOptions(**SMALL, mu=0.3),
    "ditto": DittoOptions(**SMALL, lam=0.4),
    "apfl": APFLOptions(**SMALL),
    "apfl, adam": APFLOptions(lr=0.03, personal_lr=0.02, batch_size=2, client_optimizer="adam"),
    "apfl, adaptive": APFLOptions(**SMALL, adaptive=True, alpha=0.4),
    "privategate": PrivateGateOptions(**SMALL),
    "privategate, initial": PrivateGateOptions(**SMALL, new_private="initial", momentum=0.5, weight_decay=0.01),
    "lgfedavg": LGFedAvgOptions(**SMALL, pretrain_rounds=0),
    "lgfedavg, pretrained": LGFedAvgOptions(**SMALL, pretrain_rounds=2),
    "fedper": FedPerOptions(**SMALL, personal_epochs=2),
    "fedbabu": FedBABUOptions(**SMALL),
    "fedbabu, head": FedBABUOptions(**SMALL, tuned_part="head"),
    "perfedavg": PerFedAvgOptions(lr=0.5, batch_size=3, weight_decay=0.01),
    "ngram": NGramOptions(**SMALL, memory_tokens=30),
    "fedrep": FedRepOptions(**SMALL, epochs=2),
    "fedsim": FedSimOptions(**SMALL, epochs=1, pretrain_rounds=0),
    "fedalt, pretrained": FedAltOptions(**SMALL, epochs=1, pretrain_rounds=2, private="gru"),
    "partialfed": PartialFedOptions(**SMALL, epochs=1, strategy_lr=5.0, temperature=0.5),
    "partialfed, body": PartialFedOptions(**SMALL, epochs=1, strategy="body"),
    "fedrecon": FedReconOptions(**SMALL, recon_epochs=2, recon_lr=0.7),
    "pfedhn": PFedHNOptions(**SMALL, steps=4, hyper_width=5, hyper_momentum=0.9, new_exchanges=2),
    "pfedhnpc, all": PFedHNPCOptions(**SMALL, steps=4, hyper_width=5, new_exchanges=2, generated="all", personal_epochs=2),
    "fedfomo": FedFomoOptions(**SMALL, models=2),
    "ffgg": FFGGOptions(**SMALL, epochs=2, personal_epochs=3),
    "ffgg, anew": FFGGOptions(**SMALL, start="initial", personal_epochs=None),
    "ffgg, local": FFGGOptions(**SMALL, private="body", pairs=2),
    "ffgg, asynchronous": FFGGOptions(**SMALL, asynchronous=True, delay=3),
    "dynamic_routing": DynamicRoutingOptions(**SMALL, temperature=0.8),
    "hypcluster": HypClusterOptions(**SMALL, random_rounds=0),
    "hypcluster, first at random": HypClusterOptions(**SMALL, clusters=3, random_rounds=1, personal_epochs=0),
    "knnper": KNNPerOptions(**SMALL),
    "knnper, bounded": KNNPerOptions(**SMALL, capacity=4, neighbours=2),
}
