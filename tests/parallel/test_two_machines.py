"""One run on two machines: network namespaces of this one, joined by a third that forwards, and a submission to Slurm."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flow import resume, simulate
from flow.config import read_config

ROOT = Path(__file__).parents[2]
SUBMISSION = ROOT / "scripts" / "slurm" / "flow.sbatch"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
SIZES = "--data synthetic --clients 40 --sequences 4 --sequence-length 5 --vocabulary-size 30 --embedding-dim 3 --hidden-size 4"
RUN = f"{SIZES} --dtype float64 --cohort 5 --rounds 150 --checkpoint-every 1 --evaluate-every 0 --final-clients 5".split()
PATIENCE = 120.0  # seconds


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert not done.returncode, f"ip {' '.join(words)}: {done.stderr}; this test needs iproute2 and the rights of root"


class Network:
    """Two machines, each with an address of its own, and a router between them."""

    def __init__(self, prefix: str) -> None:
        self.names = [f"{prefix}-{name}" for name in ("first", "second", "router")]
        self.addresses = ["10.77.1.1", "10.77.2.1"]

    def build(self) -> None:
        *hosts, router = self.names
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for number, host in enumerate(hosts, start=1):
            ip("link", "add", "out", "netns", host, "type", "veth", "peer", "name", f"to{number}", "netns", router)
            ip("-n", host, "addr", "add", f"10.77.{number}.1/24", "dev", "out")
            ip("-n", router, "addr", "add", f"10.77.{number}.254/24", "dev", f"to{number}")
            ip("-n", host, "link", "set", "out", "up")
            ip("-n", router, "link", "set", f"to{number}", "up")
            ip("-n", host, "route", "add", "default", "via", f"10.77.{number}.254")
        ip("netns", "exec", router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")

    def cut(self) -> None:
        """Nothing arrives any more, and nobody is told: all links stay up."""
        for address in self.addresses:
            ip("-n", self.names[2], "route", "add", "blackhole", f"{address}/32")

    def mend(self) -> None:
        for address in self.addresses:
            ip("-n", self.names[2], "route", "del", "blackhole", f"{address}/32")

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def start(self, number: int, port: int, folder: Path, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """One machine's launcher."""
        environment = os.environ | {
            "GLOO_SOCKET_IFNAME": "out", "OMP_NUM_THREADS": "1", "FLOW_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        address = ["--node-rank", str(number), "--master-addr", self.addresses[0], "--master-port", str(port)]
        command = ["ip", "netns", "exec", self.names[number], *TORCHRUN, *address, "-m", "flow", "run", *arguments]
        with log.open("wb") as out:
            return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)


@pytest.fixture
def network() -> Iterator[Network]:
    assert shutil.which("ip"), "ip is not installed: apt-get install iproute2"
    built = Network(f"flow{os.getpid()}")
    try:
        built.build()
        yield built
    finally:
        built.remove()


def said_by_flow(log: Path) -> list[str]:
    return [line for line in log.read_text(errors="replace").splitlines() if line.startswith("flow: ")]


@pytest.mark.namespaces
def test_a_link_that_is_cut_ends_the_run_within_a_minute_and_it_goes_on(network: Network, tmp_path: Path) -> None:
    folder, logs = tmp_path / "run", [tmp_path / f"{number}.log" for number in range(2)]
    begun = [network.start(n, 29500, tmp_path, logs[n], "fedavg", *RUN, "--folder", str(folder)) for n in range(2)]
    again: list[subprocess.Popen[bytes]] = []
    try:
        rows, until = folder / "metrics.jsonl", time.monotonic() + PATIENCE
        while not rows.exists() or rows.read_text().count("\n") < 3:
            assert time.monotonic() < until, [log.read_text() for log in logs]
            assert {launcher.poll() for launcher in begun} == {None}, [log.read_text() for log in logs]
            time.sleep(0.02)
        network.cut()
        cut = time.monotonic()
        codes = [launcher.wait(60) for launcher in begun]
        assert all(codes) and time.monotonic() - cut < 60
        goes_on = (
            rf"go on after its last checkpoint with `flow run --resume {re.escape(str(folder))}`, on any number of processes"
        )
        (first,), (second,) = map(said_by_flow, logs)
        assert re.fullmatch(
            rf"flow: process 1 of 2 ended in round \d+ without a word, as one that was killed or is cut off; {goes_on}", first
        )
        assert re.fullmatch(rf"flow: process 1 of 2 lost the connection to the others in round \d+; {goes_on}", second)
        assert rows.read_text().count("\n") < 150, "it was to be cut before its end"

        network.mend()
        logs = [tmp_path / f"{number}.again.log" for number in range(2)]
        again = [network.start(n, 29501, tmp_path, logs[n], "--resume", str(folder)) for n in range(2)]
        assert [launcher.wait(PATIENCE) for launcher in again] == [0, 0], [log.read_text() for log in logs]
    finally:
        for launcher in [*begun, *again]:
            launcher.kill()
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(os.environ, "FLOW_CACHE", str(tmp_path / "cache"))
        alone = simulate(read_config(folder), progress=False)
        ended = resume(folder, progress=False)
    assert [row["round"] for row in ended.metrics] == list(range(1, 151))
    for name, tensor in alone.state.items():
        assert torch.equal(ended.state[name], tensor), name


CLUSTER = {
    "scontrol": 'test "$*" = "show hostnames here,there" && echo localhost && echo localhost',
    # Both machines of the job are this one
    "srun": 'test "$1" = --kill-on-bad-exit=1; shift; "$@" & "$@"; first=$?; wait $! && exit $first',
    "torchrun": f'echo "$OMP_NUM_THREADS threads: $*" >> "$LOG"; exec {sys.executable} -m torch.distributed.run "$@"',
}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two machines, with Slurm's commands and the launcher as scripts."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in CLUSTER.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "FLOW_CACHE": str(tmp_path / "cache"), "LOG": str(tmp_path / "log"),
        "SLURM_JOB_NODELIST": "here,there", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_CPUS_PER_TASK": "2",
    }  # fmt: skip


@pytest.mark.namespaces
def test_the_submission_to_slurm_is_a_sound_script() -> None:
    assert shutil.which("shellcheck"), "shellcheck is not installed: apt-get install shellcheck"
    done = subprocess.run(["shellcheck", SUBMISSION], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.namespaces
def test_a_job_of_slurm_trains_on_all_machines_and_is_submitted_again_to_go_on(cluster: dict[str, str], tmp_path: Path) -> None:
    folder, short = tmp_path / "a run", [word if word != "150" else "2" for word in RUN]
    for _ in range(2):
        done = subprocess.run(
            ["bash", SUBMISSION, folder, "fedavg", *short],
            env=cluster,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert not done.returncode, done.stderr
    new, resumed = ((tmp_path / "log").read_text().splitlines()[place] for place in (0, -1))
    port = 20000 + os.getpid() % 20000
    assert new.startswith(f"2 threads: --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-id {os.getpid()} ")
    assert f"--rdzv-endpoint localhost:{port} -m flow run fedavg " in new and new.endswith(f"--folder {folder}")
    assert resumed.endswith(f"-m flow run --resume {folder}")
    assert '"processes": 2' in (folder / "run.json").read_text()


def test_a_submission_without_an_algorithm_says_what_it_takes() -> None:
    done = subprocess.run(["bash", SUBMISSION, "runs/big"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: sbatch flow.sbatch FOLDER ALGORITHM [OPTIONS]\n")
