"""A SuperLink and SuperNodes on this machine's loopback, with certificates and keys made for the test; all of it ends with the
block, whatever happens in it."""

from __future__ import annotations

import datetime
import importlib.util
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from flow.deploy.node import NodeOptions

BIN = Path(sys.executable).parent
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
"""No telemetry, no look for a newer version, and no waiting between tasks."""
HOST = "127.0.0.1"
CONNECTION = "here"


def need_flower() -> None:
    """Fail where the extra is missing; continuous integration has it."""
    if importlib.util.find_spec("flwr") is None or not (BIN / "flower-superlink").exists():
        pytest.fail("Flower is not installed in this environment; install it with `pip install 'flow-fl[flower]'`")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        return int(listening.getsockname()[1])


class Certificates:
    """An authority and a certificate of a server on the loopback, signed by it."""

    def __init__(self, folder: Path) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        folder.mkdir(parents=True)
        self.authority, self.certificate, self.key = (folder / name for name in ("ca.pem", "server.pem", "server.key"))
        keys: list[Any] = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("flow test authority", "localhost")]
        now = datetime.datetime.now(datetime.UTC)

        def builder(place: int) -> Any:
            return (
                x509.CertificateBuilder()
                .subject_name(names[place])
                .issuer_name(names[0])
                .public_key(keys[place].public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(hours=1))
                .not_valid_after(now + datetime.timedelta(days=1))
            )

        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
        authority = builder(0).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        server = builder(1).add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        server = server.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
        authority = authority.add_extension(x509.SubjectKeyIdentifier.from_public_key(keys[0].public_key()), critical=False)
        authority = authority.add_extension(_signs(x509), critical=True)
        pem = _encoding()
        self.authority.write_bytes(authority.sign(keys[0], hashes.SHA256()).public_bytes(pem))
        self.certificate.write_bytes(server.sign(keys[0], hashes.SHA256()).public_bytes(pem))
        self.key.write_bytes(_private(keys[1], "TraditionalOpenSSL"))


def _signs(x509: Any) -> Any:
    """The usage of a key that signs certificates."""
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _encoding() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.PEM


def _private(key: Any, form: str) -> bytes:
    from cryptography.hazmat.primitives import serialization

    content: bytes = key.private_bytes(
        serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), serialization.NoEncryption()
    )
    return content


def node_key(folder: Path, name: str) -> tuple[Path, Path]:
    """A key of a node, private and public, as `ssh-keygen -t ecdsa -b 384` makes them."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / name, folder / f"{name}.pub"
    private.write_bytes(_private(key, "OpenSSH"))
    private.chmod(0o600)
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) + b"\n"
    )
    return private, public


class Federation:
    """One SuperLink and its SuperNodes; a context manager.

    Args:
        folder: for logs, keys and Flower's own files.
        certificates: None: without TLS.
    """

    def __init__(self, folder: Path, certificates: Certificates | None = None) -> None:
        self.folder, self.certificates = folder, certificates
        self.port = free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        home = folder / "flower"
        home.mkdir(parents=True)
        own = f'root-certificates = "{certificates.authority}"' if certificates else "insecure = true"
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "{HOST}:{self.port}"\n{own}\n'
        )
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        root = str(Path(__file__).parents[2])
        self.environment = {**os.environ, **QUIET, "FLWR_HOME": str(home), "PATH": path, "PYTHONPATH": root}

    def __enter__(self) -> Federation:
        secure = self.certificates
        own: list[Any] = ["--insecure"]
        if secure is not None:
            own = ["--ssl-ca-certfile", secure.authority, "--ssl-certfile", secure.certificate, "--ssl-keyfile", secure.key]
            own += ["--enable-supernode-auth"]
        options = ["--host", HOST, "--port", self.port, "--disable-runtime-dependency-installation", *own]
        try:
            self.start("superlink", "flower-superlink", *options)
            self.wait_for(lambda: _listens(self.port), "the SuperLink listens", 60)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def start(self, name: str, program: str, *options: Any) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, with its output in a file."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(BIN / program), *map(str, options)], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=self.environment, cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        self._processes[name] = process
        return process

    def node(self, name: str, options: NodeOptions, key: Path | None = None, authority: Path | None = None) -> None:
        """Start a SuperNode; authority: whom it trusts, where it is not that of the federation."""
        own: list[Any] = ["--insecure"]
        if self.certificates is not None:
            own = ["--root-certificates", authority or self.certificates.authority]
        own += ["--auth-supernode-private-key", key] if key is not None else []
        config = " ".join(f'{field}="{value}"' for field, value in options.__dict__.items() if isinstance(value, str) and value)
        runtime = ["--host", HOST, "--port", free_port(), "--max-retries", 2, "--max-wait-time", 8]
        self.start(name, "flower-supernode", "--superlink", f"{HOST}:{self.port}", *own, *runtime, "--node-config", config)

    def kill(self, name: str) -> None:
        """Kill a node and everything that it started, at once and for good."""
        for process in _descendants(self._processes[name].pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._processes[name].wait(10)

    def flwr(self, *arguments: Any, timeout: float = 60) -> str:
        """What a command of Flower prints."""
        done = subprocess.run(
            [str(BIN / "flwr"), *map(str, arguments)], env=self.environment, cwd=self.folder, timeout=timeout,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"flwr {arguments}: {done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def run(self, app: Path, **config: Any) -> None:
        """Start a run of an app."""
        options = " ".join(f"{name}={_toml(value)}" for name, value in config.items())
        self.flwr("run", app, CONNECTION, "--run-config", options)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def logs(self) -> str:
        """The ends of all logs, for the message of a failure."""
        return "\n".join(f"--- {name}\n{self.log(name)[-6000:]}" for name in self._processes)

    def ended(self, name: str) -> bool:
        return self._processes[name].poll() is not None

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until it holds.

        Raises:
            AssertionError: it does not in time, or the run failed; with the logs.
        """
        end = time.monotonic() + seconds
        while not condition():
            assert not self.ended("superlink"), f"the SuperLink ended before {what}\n{self.logs()}"
            assert "ServerApp raised an exception" not in self.log("superlink"), f"the run failed before {what}\n{self.logs()}"
            assert time.monotonic() < end, f"{what}: not in {seconds:g} s\n{self.logs()}"
            time.sleep(0.1)

    def _end(self) -> None:
        """End all processes that were started here, and theirs."""
        for process in self._processes.values():
            for number in _descendants(process.pid)[::-1]:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        asking.settimeout(1)
        return asking.connect_ex((HOST, port)) == 0


def _descendants(process: int) -> list[int]:
    """A process and all that it started, as far as they still are its children, and those of its session."""
    parents: dict[int, list[int]] = {}
    same_session = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            fields = path.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
            if int(fields[3]) == process:
                same_session.append(int(path.parent.name))
    seen, waiting = [], [process, *same_session]
    while waiting:
        number = waiting.pop()
        if number not in seen:
            seen.append(number)
            waiting += parents.get(number, [])
    return seen


def checkpoint(folder: Path, round: int) -> Path:
    return folder / "checkpoints" / f"round_{round:06d}.safetensors"
