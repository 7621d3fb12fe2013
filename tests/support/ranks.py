"""Several processes of one run, as torchrun starts them: this file is also what each of them executes."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flow import Config
from flow.draws import Draw
from flow.engine.participation import Group
from flow.engine.run import RunState
from flow.engine.task import Task
from flow.model.language_model import LanguageModel
from flow.server.uploads import Received
from flow.simulation import loop

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]

EXCHANGES = {"sums": 1, "nothing is sent": 2, "robust": 2, "one by one, and of others": 3, "kept on disk": 2}


def launch(processes: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m flow`` with these arguments, or this file where the first one is its name, in so many processes."""
    command = [str(HERE / "ranks.py"), *arguments[1:]] if arguments[0] == "ranks" else ["-m", "flow", *arguments]
    paths = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent, HERE)))
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [*TORCHRUN, str(processes), "--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *command],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def configurations() -> dict[str, Config[Any]]:
    """A run for every way in which processes exchange something."""
    from algorithm_cases import CASES

    from flow import Config, ModelOptions
    from flow.algorithms import algorithm_of
    from flow.privacy.options import PrivacyOptions
    from flow.server.options import ServerOptions

    base: Config[Any] = Config(
        model=ModelOptions(embedding_dim=3, hidden_size=4, dtype="float64"),
        rounds=3,
        cohort=5,
        evaluate_every=2,
        evaluate_clients=2,
        checkpoint_every=2,
        chunk=2,
        threads=1,
        validation_share=0.0,
    )
    first = {algorithm_of(options).name: options for options in reversed(CASES.values())}

    def of(name: str, **changes: Any) -> Config[Any]:
        return dataclasses.replace(base, algorithm=first[name], **changes)

    return {
        "sums": of("fedavg", server=ServerOptions("yogi")),
        "fewer clients than processes": of("flow", cohort=2, rounds=4),
        "kept in memory": of("ditto"),
        "kept on disk": of("apfl", client_memory=0),
        "one by one, and of others": of("fedfomo"),
        "nothing is sent": of("local"),
        "robust": of("fedavg", server=ServerOptions(aggregator="krum", bucket_size=1)),
        "dropouts": of("pfedhn", dropout=0.4, rounds=4),
        "every upload of a process is lost": of("flow", cohort=3, dropout=0.6, rounds=8),
        "slow": of("fedprox", stragglers=0.6, late="partial"),
        "on a clock": of("flow", clock="spread", wait_for=3, dropout=0.2),
        "a deadline": of("fedavg", clock="nights", deadline=6.0),
        "asynchronous": of("fedavg", async_buffer=2, compress="int8", dropout=0.2, rounds=7),
        "asynchronous, kept": of("ditto", async_buffer=3, rounds=6),
        "private": of("ditto", cohort=2, privacy=PrivacyOptions(dp_noise=2.0, dp_quantile=0.5), rounds=5),
        "private, by a tree": of("flow", cohort=2, privacy=PrivacyOptions(dp_noise=4.0, dp_mechanism="tree"), rounds=5),
        "asynchronous, nights": of("fedavg", async_buffer=2, clock="nights", compress="topk:0.1", rounds=7),
        "asynchronous, kept on disk": of("apfl", async_buffer=2, compress="int4", client_memory=0, dropout=0.2, rounds=6),
        "asynchronous, voted": of("flow", async_buffer=2, rounds=5),
        "cut short by a deadline": of("ditto", clock="spread", deadline=3.0, late="partial", compress="int8"),
    }


TIMED = ("asynchronous", "clock", "deadline")
"""In the names of the configurations with virtual time."""


def timed() -> dict[str, Config[Any]]:
    """Those with virtual time, asynchronous ones among them."""
    return {name: config for name, config in configurations().items() if any(word in name for word in TIMED)}


def main(task: str, folder: str) -> None:
    import oracles

    import flow
    from flow import resume, simulate
    from flow.parallel.processes import Ranks, _store, joined, leave

    ranks, module, exchanges = joined(), loop, Counter[str]()

    def counted(
        self: Ranks, function: Callable[[], None], original: Callable[[Ranks, Callable[[], None]], None] = Ranks._exchange
    ) -> None:
        exchanges[self.where] += 1
        original(self, function)

    patch = pytest.MonkeyPatch()
    patch.setattr(Ranks, "_exchange", counted)
    patch.setattr(module, "_write_report", lambda path: None)
    if task == "all":
        for name, config in configurations().items():
            exchanges.clear()
            simulate(config, Path(folder) / name, population=oracles.population(), progress=False)
            if name in EXCHANGES:  # of a round without an evaluation
                assert exchanges["round 1"] == EXCHANGES[name], (name, exchanges)
        leave()
        return
    if task == "timed":
        for name, config in timed().items():
            simulate(config, Path(folder) / name, population=oracles.population(), progress=False)
            resume(Path(folder) / "begun" / name, rounds=config.rounds, population=oracles.population(), progress=False)
        leave()
        return
    rank, where = map(int, task.split("-")[1:])

    def local(
        task_: Task,
        run: RunState,
        draw: Draw,
        model: LanguageModel,
        group: Group,
        original: Callable[..., Received] = module._local,
    ) -> Received:
        if draw.round == where:
            store = _store()
            store.set(f"arrived/{ranks.rank}", "")
        if (ranks.rank, draw.round) == (rank, where):
            # A process that ends while another still reads the last exchange would be missed there, a round earlier.
            store.wait([f"arrived/{other}" for other in range(ranks.size)])
            if task.startswith("kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            raise flow.UserError("the disk of this process is gone")
        return original(task_, run, draw, model, group)

    patch.setattr(module, "_local", local)
    from flow.cli.main import main as command

    sys.exit(command(["run", "fedavg", "--folder", folder, *os.environ["ARGUMENTS"].split()]))


if __name__ == "__main__":
    main(*sys.argv[1:])
