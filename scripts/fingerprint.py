"""Prints what two tiny rounds leave behind, as SHA-256, for every algorithm: whether a change of the code changes any bit.

    python scripts/fingerprint.py > before.txt     (then change the code)
    python scripts/fingerprint.py | diff before.txt -

Every line has a name, the number format and two SHA-256. The first is of all tensors of the last checkpoint: the server's
state, its moments, the clients' states. The second is of the metrics and the score of every client, without times. Everything
runs on one thread. The bits depend on the processor, its instruction set and the version of torch, so compare two builds on one
machine. It takes about a minute.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["FLOW_CACHE"] = ""  # the clients are made anew
import torch
from safetensors.torch import load_file

import flow
from flow.algorithms import NAMES
from flow.data import DataOptions, load

CLIENTS = DataOptions(data="synthetic", clients=24, sequences=9, sequence_length=7, vocabulary_size=40, oov_buckets=3)
BASE: dict[str, Any] = dict(rounds=2, cohort=5, evaluate_every=1, evaluate_clients=2, min_texts=1, chunk=3, threads=1)
BASE |= dict(validation_share=0.0, split="random")  # as in builds that set no clients aside and knew no other split
SIZES: dict[str, Any] = dict(embedding_dim=5, hidden_size=7)
# name: (algorithm, its options, options of the run by part)
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, dict[str, Any]]]] = {
    "flow, workshop": ("flow", {"variant": "workshop"}, {}),
    "flow, neurips": ("flow", {"variant": "neurips"}, {}),
    "flow, in time": ("flow", {"variant": "neurips"}, {"run": {"split": "time"}}),
    "flow, adapted": ("flow", {"adapt_epochs": 1, "through": "mixture"}, {"run": {"split": "time"}}),
    "flow, PI": ("flow", {"variant": "neurips", "ablation": "instance"}, {}),
    "flow, PC": ("flow", {"variant": "neurips", "ablation": "client"}, {}),
    "flow, projection": ("flow", {"variant": "neurips"}, {"model": {"projection_dim": 6}}),
    "flow, reference": ("flow", {"variant": "neurips"}, {"model": {"backend": "reference"}}),
    "fedavg, momentum": ("fedavg", {"momentum": 0.5, "weight_decay": 1e-3}, {}),
    "fedavg, stragglers": ("fedavg", {}, {"run": {"dropout": 0.3, "stragglers": 0.5, "late": "partial"}}),
    "ditto, validation clients": ("ditto", {}, {"run": {"validation_share": 0.4}}),
    "fedavg, krum": ("fedavg", {}, {"server": {"aggregator": "krum", "bucket_size": 2}}),
    "fedavg, clipping": ("fedavg", {}, {"server": {"aggregator": "centered_clipping"}}),
    "fedavg, median": ("fedavg", {}, {"server": {"aggregator": "geometric_median"}}),
    "fedavg, reference": ("fedavg", {}, {"model": {"backend": "reference"}}),
    "apfl, adaptive": ("apfl", {"adaptive": True}, {}),
    "apfl, reference": ("apfl", {"adaptive": True}, {"model": {"backend": "reference"}}),
    "ffgg, asynchronous": ("ffgg", {"asynchronous": True}, {}),
    "ffgg, pairs": ("ffgg", {"private": "body", "pairs": 2}, {}),
    "lgfedavg, at once": ("lgfedavg", {"pretrain_rounds": 0}, {}),
    "fedsim, at once": ("fedsim", {"pretrain_rounds": 0, "private": "body"}, {}),
    "fedalt, at once": ("fedalt", {"pretrain_rounds": 0}, {}),
    "partialfed, given": ("partialfed", {"strategy": "head"}, {}),
    "hypcluster, no random round": ("hypcluster", {"random_rounds": 0}, {}),
    "pfedhn, all": ("pfedhn", {"generated": "all"}, {}),
    "knnper, capacity": ("knnper", {"capacity": 9}, {}),
}


def configurations() -> Iterator[tuple[str, flow.Config[Any]]]:
    """Every name of an algorithm with its defaults, then the variants."""
    plain = {name: (name, {}, {}) for name in NAMES}
    for label, (name, options, parts) in {**plain, **VARIANTS}.items():
        known = NAMES[name]
        yield (
            label,
            flow.Config(
                algorithm=known.algorithm.options(**options),
                model=flow.ModelOptions(**SIZES | parts.get("model", {})),
                server=dataclasses.replace(known.server, **parts.get("server", {})),
                **BASE | parts.get("run", {}),
            ),
        )


def timeless(content: Any) -> Any:
    """Nested content without what depends on time and on the machine, and without predicted words, which say again what
    `global_correct` and `personal_correct` count."""
    if isinstance(content, dict):
        return {
            key: timeless(value) for key, value in content.items() if "second" not in key and not key.endswith("_predicted")
        }
    return [timeless(value) for value in content] if isinstance(content, list) else content


def of_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """Over every tensor's name, dtype, shape and bytes, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def main() -> None:
    torch.set_num_threads(1)
    population = load(CLIENTS)
    for dtype in ("float32", "float64"):
        for label, config in configurations():
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))
            with tempfile.TemporaryDirectory() as parent:
                result = flow.simulate(config, Path(parent, "run"), population=population, progress=False)
                (last,) = Path(parent, "run", "checkpoints").glob("round_*.safetensors")
                state = of_tensors(load_file(last))
            rest = json.dumps([timeless(result.metrics), timeless(result.evaluation)], sort_keys=True)
            print(f"{label}, {dtype}: {state} {hashlib.sha256(rest.encode()).hexdigest()}", flush=True)
    print(f"torch {torch.__version__}", file=sys.stderr)


if __name__ == "__main__":
    main()
