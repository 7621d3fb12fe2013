"""Everything that users, disks and strangers do to the software, tried at length; one table of what came of it.

    python tests/faults/campaign.py [--kinds KIND ...] [--minutes N] [--seed N] [--small]

It exits with 1 where there is a fault, and says of each how to bring it about again. The kinds are kills, damage, forged,
options, surroundings, readers, guided and data; without --kinds all of them are tried. --small does in seconds a little of
each, without guided. --minutes are those of guided, for all readers together.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parent), str(HERE.parents[1])]

from counts import Counts, table  # noqa: E402 (after the folders in which it lies)

READERS = [
    "jsonl data", "config.json", "metrics.jsonl", "evaluation.json", "checkpoint", "client's state", "comparison.json",
    "kept JSON", "kept CSV",
]  # fmt: skip


def _kills(small: bool, seed: int) -> Counts:
    import kills

    return kills.campaign(every=60, twice=(0.5,), again=70) if small else kills.campaign()


def _damage(small: bool, seed: int) -> Counts:
    import damage

    return damage.campaign(each=1, seed=seed, share=0.02) if small else damage.campaign(seed=seed)


def _forged(small: bool, seed: int) -> Counts:
    import forged

    return forged.campaign(("adam",), share=0.03, seed=seed) if small else forged.campaign(seed=seed)


def _options(small: bool, seed: int) -> Counts:
    import options

    return options.campaign(25, seed) if small else options.campaign(seed=seed)


def _surroundings(small: bool, seed: int) -> Counts:
    import surroundings

    return surroundings.campaign(every=80, interpreters=False) if small else surroundings.campaign()


def _readers(small: bool, seed: int) -> Counts:
    import readers

    return readers.campaign(20 if small else 3000, seed)


def _data(small: bool, seed: int) -> Counts:
    """Files of data in every bad form, where there is a module that makes them."""
    import malformed

    tried, refused, accepted, faults = malformed.campaign(20 if small else 300, seed)
    return Counts("malformed data", tried, refused, accepted, list(faults))


KINDS: dict[str, Callable[[bool, int], Counts]] = {
    "kills": _kills, "damage": _damage, "forged": _forged, "options": _options, "surroundings": _surroundings,
    "readers": _readers,
}  # fmt: skip
if importlib.util.find_spec("malformed") is not None:
    KINDS["data"] = _data


def guided(minutes: float, corpus: Path) -> Counts:
    """Every reader in an interpreter of its own, one after the other, with bytes chosen by coverage.

    corpus: where these bytes are kept for the next time.
    """
    counts, seconds = Counts("guided by coverage"), max(1, round(minutes * 60 / len(READERS)))
    for name in READERS:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:4])}
        done = subprocess.run(
            [sys.executable, str(HERE / "readers.py"), name, str(seconds), str(corpus)],
            capture_output=True,
            text=True,
            env=environment,
            errors="replace",
            check=False,
        )
        known = re.search(r"^refused (\d+) accepted (\d+)$", done.stderr, re.MULTILINE)
        if done.returncode or not known:
            counts.add(f"exit {done.returncode}: {done.stderr[-1500:]}", f"readers.py {name!r}, bytes in {corpus}")
        else:
            counts.refused, counts.accepted = counts.refused + int(known[1]), counts.accepted + int(known[2])
            counts.tried += int(known[1]) + int(known[2])
    return counts


def main() -> int:
    """Try the kinds that were asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, "guided"], default=[*KINDS, "guided"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", action="store_true", help="print counts instead of a table")
    parser.add_argument("--corpus", type=Path, default=HERE.parents[1] / "build" / "campaign")
    chosen = parser.parse_args()
    results = []
    for kind in chosen.kinds:
        started = time.monotonic()
        results.append(guided(chosen.minutes, chosen.corpus) if kind == "guided" else KINDS[kind](chosen.small, chosen.seed))
        print(f"{kind}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    if chosen.json:
        print(json.dumps([counts.content() for counts in results]))
    else:
        print(table(results))
        for counts in results:
            for fault in counts.faults:
                print(f"{counts.kind}: {fault}")
    return 1 if any(counts.faults for counts in results) else 0


if __name__ == "__main__":
    sys.exit(main())
