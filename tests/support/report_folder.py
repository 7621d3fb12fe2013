"""A synthetic run folder with the files that a real run leaves behind, small and consistent in itself."""

import json
import pathlib
from typing import Any

import numpy as np

VERSES = [
    "The lamp is out, and still the ledger burns;\nwho counts the night by what the morning earns?\nBring me the key!",
    "I have a horse, a debt, a coat of grey,\nand none of these will carry me away.\nSo sit, and let it rain.",
    "What, ho! The boats are in. The salt is cheap,\nthe captain sober and the crew asleep.",
]
MESSAGES = [
    "net : fix the length check in the parser <eos>",
    "docs : say which <oov> the default timeout is measured in \n while here , drop an outdated note <eos>",
    "build : do not link the tests against the old library <eos>",
]


def _summary(clients: list[dict[str, Any]], skipped: int, personalized: bool, routed: bool) -> dict[str, Any]:
    """The summary of one group, computed from its clients as the evaluation does."""
    result: dict[str, Any] = {
        "clients": len(clients),
        "skipped": skipped,
        "tokens": sum(client["tokens"] for client in clients),
    }
    for name, exists in (("global", True), ("personal", personalized), ("soft", routed)):
        present = exists and bool(clients)
        correct = [client[f"{name}_correct"] for client in clients] if present else []
        result[f"{name}_token"] = sum(correct) / result["tokens"] if present else None
        shares = [c / client["tokens"] for c, client in zip(correct, clients, strict=False)]
        result[f"{name}_client"] = float(np.mean(shares)) if present else None
    for name, sign in (("helped", 1), ("hurt", -1)):
        wins = [sign * (client["personal_correct"] - client["global_correct"]) > 0 for client in clients if personalized]
        result[name] = float(np.mean(wins)) if wins else None
    return result


def _clients(
    rng: np.random.Generator, n: int, seen: bool, base: float, gain: float, personalized: bool, routed: bool
) -> list[dict[str, Any]]:
    clients = []
    for index in range(n):
        tokens = int(rng.lognormal(6.5, 1.0)) + 40
        skill = np.clip(base + rng.normal(0, 0.03), 0.05, 0.95)
        right = int(rng.binomial(tokens, skill))
        # The two models agree on most tokens, so the difference is far less noisy than either accuracy.
        personal = int(np.clip(right + round(tokens * rng.normal(gain, 0.012)), 0, tokens))
        name = f"{'PLAY' if seen else 'OTHER PLAY'}/ROLE {index}"
        client: dict[str, Any] = {
            "id": name,
            "group": name.split("/")[0],
            "seen": seen,
            "texts": 10 + index,
            "train_tokens": 4 * tokens,
        }
        client |= {"tokens": tokens, "global_correct": right, "personal_correct": personal if personalized else None}
        client["soft_correct"] = int(min(tokens, personal + round(0.004 * tokens))) if routed else None
        client["local_weight"] = float(rng.beta(3, 4)) if routed else None
        clients.append(client)
    return clients


def _routing(rng: np.random.Generator, steps: int) -> dict[str, Any]:
    rows, samples = [], []
    for step in range(1, steps + 1):
        lean = 1 / (1 + np.exp(-(step - 6) / 5))
        q = rng.beta(1.2 + 2 * lean, 3.2 - 1.2 * lean, size=500)
        samples.append(q)
        rows.append(
            {
                "step": step,
                "tokens": 500,
                "mean": float(q.mean()),
                "quantiles": np.quantile(q, [0.1, 0.25, 0.5, 0.75, 0.9]).tolist(),
            }
        )
    counts, edges = np.histogram(np.concatenate(samples), bins=20, range=(0, 1))
    return {"steps": rows, "histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}


def _texts(rng: np.random.Generator, unit: str, personalized: bool, routed: bool) -> list[dict[str, Any]]:
    texts = []
    for index, passage in enumerate(VERSES if unit == "character" else MESSAGES):
        tokens = list(passage) if unit == "character" else passage.split(" ")
        n = len(tokens)
        walk = np.cumsum(rng.normal(0, 0.5, n)) * 0.6 + rng.normal(0, 0.6, n)
        text: dict[str, Any] = {
            "client": f"PLAY/ROLE {index}",
            "group": "PLAY",
            "seen": index % 2 == 0,
            "tokens": tokens,
        }
        text["local_weight"] = (1 / (1 + np.exp(-walk))).tolist() if routed else None
        right = rng.random(n) < 0.55
        text["global_correct"] = right.tolist()
        text["personal_correct"] = np.where(rng.random(n) < 0.12, ~right, right).tolist() if personalized else None
        for model in ("global", "personal"):
            right = text[f"{model}_correct"]
            wrong = [tokens[(index * 7 + 3) % n] for index in range(n)]
            words = None if right is None else [t if hit else w for t, w, hit in zip(tokens, wrong, right, strict=True)]
            text[f"{model}_predicted"] = words
        texts.append(text)
    return texts


def write_run_folder(
    folder: pathlib.Path,
    *,
    algorithm: str = "flow",
    unit: str = "character",
    rounds: int = 120,
    every: int = 10,
    seen: int = 180,
    unseen: int = 60,
    gain: float = 0.012,
    seed: int = 0,
) -> pathlib.Path:
    """Write config.json, metrics.jsonl and evaluation.json into `folder` (created) and return it.

    `algorithm`: "fedavg" does not personalize, "fedavgft" personalizes without a router, anything else is routed.
    `every`: rounds between evaluations, 0 for none. `gain`: mean personal - global accuracy over clients. Equal
    arguments give equal files.
    """
    rng = np.random.default_rng(seed)
    personalized, routed = algorithm != "fedavg", algorithm not in ("fedavg", "fedavgft")

    def clients(base: float, effect: float) -> dict[str, list[dict[str, Any]]]:
        kind = {"personalized": personalized, "routed": routed}
        return {
            "seen": _clients(rng, seen, True, base, effect, **kind),
            "unseen": _clients(rng, unseen, False, base - 0.02, 0.6 * effect, **kind),
        }

    def summarized(groups: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        return {name: _summary(group, 3 if group else 0, personalized, routed) for name, group in groups.items()}

    rows = []
    for number in range(1, rounds + 1):
        progress = 1 - np.exp(-4 * number / rounds)
        row: dict[str, Any] = {
            "round": number,
            "loss": float(3.4 - 1.8 * progress + rng.normal(0, 0.05)),
            "clients": 20,
            "skipped": 1,
        }
        row |= {
            "sequences": 412,
            "seconds": 2.5,
            "sequences_per_second": 164.8,
            "upload_bytes": 20 * 1_450_000,
            "download_bytes": 21 * 1_440_000,
        }
        evaluated = every > 0 and number % every == 0
        row["evaluation"] = summarized(clients(0.2 + 0.33 * progress, gain * progress)) if evaluated else None
        rows.append(row)
    final = clients(0.53, gain)
    options: dict[str, Any] = {"name": algorithm, "local_epochs": 1, "local_lr": 0.5, "router": {"lr": 0.1}}
    options |= {"gamma": 0.001, "temperature": 1.0} if routed else {}
    config: dict[str, Any] = {
        "algorithm": options,
        "data": {"data": "shakespeare", "sequence_length": 80, "max_clients": 0},
    }
    config |= {"model": {"embedding": 8, "hidden": 128, "layers": 1}, "rounds": rounds, "cohort": 20, "seed": seed}
    config["server"] = {"server": "yogi", "server_lr": 0.01, "clip_radius": None}
    config["versions"] = {"flow": "0.1.0", "torch": "2.13.0", "python": "3.11.7"}
    evaluation: dict[str, Any] = {
        "round": rounds,
        "algorithm": algorithm,
        "unit": unit,
        "dataset": "shakespeare",
        "personalized": personalized,
    }
    evaluation["about"] = "Plays, one client per role; text in the public domain, package under the MIT licence"
    evaluation |= {
        "summary": summarized(final),
        "clients": [*final["seen"], *final["unseen"]],
        "routing": _routing(rng, 80) if routed else None,
    }
    evaluation["texts"] = _texts(rng, unit, personalized, routed)

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder
