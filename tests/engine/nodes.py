"""Several machines in one: nodes with an address, a name, processes, `/tmp` and shared memory of their own.

Each node is a set of Linux namespaces (net, mount, uts, pid) on one bridge, with a Ray of a few cores inside; what they share
is the folder of the test, as a mounted disk would be. The name of a node resolves to 127.0.1.1, as Debian has it, so whoever
asks for the address of a name gets one that others cannot reach. Whoever kills a node kills everything in it at once; `unplug`
takes its cable out first, so that nobody is told.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PORT = 6399
CHECKOUT = Path(__file__).resolve().parents[2]
"""Seen by all nodes, also where it is inside `/tmp`."""
_SETUP = """
set -e
mkdir -p /run/gyral-stage/shared /run/gyral-stage/checkout
mount --bind "$SHARED" /run/gyral-stage/shared; mount --bind "$CHECKOUT" /run/gyral-stage/checkout
mount -t tmpfs -o size=600m tmpfs /tmp; mount -t tmpfs -o size=300m tmpfs /dev/shm
mkdir -p "$SHARED" "$CHECKOUT"
mount --move /run/gyral-stage/checkout "$CHECKOUT"; mount --move /run/gyral-stage/shared "$SHARED"
mkdir -p /tmp/home; printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$NAME" > /tmp/hosts; mount --bind /tmp/hosts /etc/hosts
hostname "$NAME"
exec "$@"
"""


def why_not() -> str:
    """Why this machine cannot make nodes; empty: it can."""
    if os.geteuid() or not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        return "nodes need root, `ip`, `unshare` and `nsenter`"
    tried = subprocess.run(["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"], capture_output=True, text=True)
    return tried.stderr.strip() if tried.returncode else ""


class Nodes:
    """A cluster; `address` is that of its head, node 0, in which `run` and `start` put commands.

    Parameters
    ----------
    shared : the folder that all nodes see under its name; inside `/tmp` or elsewhere.
    cpus : of each node that Ray may give out.
    """

    def __init__(self, shared: Path, cpus: list[int], store_bytes: int = 80 << 20) -> None:
        self.shared, self._store_bytes = shared.resolve(), store_bytes
        self._prefix, self._token = f"gy{secrets.token_hex(2)}", secrets.token_hex(32)
        self._net = self._prefix
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}
        self.address = f"10.77.0.1:{PORT}"
        self.logs = self.shared / "nodes"
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            _ip("netns", "add", self._net)
            _ip("-n", self._net, "link", "add", "br0", "type", "bridge")
            _ip("-n", self._net, "link", "set", "br0", "up")
            for number, num in enumerate(cpus):
                self.add(number, num)
            self.wait(len(cpus))
        except BaseException:
            self.close()
            raise

    def add(self, number: int, cpus: int) -> None:
        """Plug in a node."""
        name, at = f"{self._prefix}n{number}", f"10.77.0.{number + 1}"
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"v{number}", "netns", self._net)
        _ip("-n", self._net, "link", "set", f"v{number}", "master", "br0", "up")
        _ip("-n", name, "addr", "add", f"{at}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={at}", f"--num-cpus={cpus}",
               f"--object-store-memory={self._store_bytes}", "--disable-usage-stats"]  # fmt: skip
        ray += ["--head", f"--port={PORT}", "--include-dashboard=false"] if number == 0 else [f"--address={self.address}"]
        own = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["ip", "netns", "exec", name, *own, "bash", "-c", _SETUP, "setup", *ray]
        log = open(self.logs / f"{number}.log", "ab")  # noqa: SIM115 (the process has it)
        with log:
            self._nodes[number] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**self.environment(), "SHARED": str(self.shared), "CHECKOUT": str(CHECKOUT), "NAME": f"node{number}"},
            )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """Of the nodes: a token and a home of their own, in which nothing is cached, and detection of a death in seconds.

        The token is said here because Ray, once it has run in the process of the tests, leaves there that one is asked for.
        """
        return {
            **os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token,
            "HOME": "/tmp/home", "XDG_CACHE_HOME": "/tmp/home/.cache", "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000",
            "RAY_health_check_failure_threshold": "3", "RAY_health_check_initial_delay_ms": "2000",
            "RAY_prestart_worker_first_driver": "0", "RAY_enable_metrics_collection": "0",
        }  # fmt: skip

    def start(self, words: list[str], node: int = 0, **options: object) -> subprocess.Popen[str]:
        """Start a command in a node, in the shared folder."""
        pid = self._pid_one(node)
        command = ["nsenter", "--target", str(pid), "--net", "--mount", "--uts", "--pid", f"--wd={self.shared}", *words]
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": self.environment(), **options}
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, **given)

    def run(self, words: list[str], node: int = 0, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command in a node to its end; its output."""
        process = self.start(words, node)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.signal(process, signal.SIGKILL)
            out, err = process.communicate()
            err += f"\nnot done in {timeout_s:g} s"
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def signal(self, process: subprocess.Popen[str], number: int) -> None:
        """To what `start` has started: `nsenter` passes nothing on."""
        for child in _children(process.pid):
            os.kill(child, number)

    def kill(self, number: int, unplug: bool = False) -> None:
        """All of a node dies at once; `unplug`: without a last word to anybody."""
        if unplug:
            _ip("-n", self._net, "link", "set", f"v{number}", "down")
        os.kill(self._pid_one(number), signal.SIGKILL)
        self._nodes.pop(number).wait()
        for words in (["-n", self._net, "link", "del", f"v{number}"], ["netns", "del", f"{self._prefix}n{number}"]):
            with contextlib.suppress(subprocess.CalledProcessError):  # the link goes with the node
                _ip(*words)

    def pids(self, number: int) -> list[int]:
        """Of all processes of a node, as this side sees them."""
        found, look = [], [self._nodes[number].pid]
        while look:
            found.append(look.pop())
            look += _children(found[-1])
        return found

    def wait(self, num: int, timeout_s: float = 60.0) -> None:
        """Until so many nodes have joined."""
        code = "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR', log_to_driver=False);"
        code += "import time; end = time.monotonic() + float(sys.argv[3])\n"
        code += "while sum(n['Alive'] for n in ray.nodes()) != int(sys.argv[2]): time.sleep(.1); assert time.monotonic() < end"
        last = ""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            with contextlib.suppress(StopIteration, OSError):
                log = (self.logs / "0.log").read_text()
                if "Ray runtime started" in log:
                    done = self.run([sys.executable, "-c", code, self.address, str(num), str(timeout_s)], timeout_s=timeout_s)
                    if done.returncode == 0:
                        return
                    last = done.stderr
            time.sleep(0.2)
        raise RuntimeError(f"{num} nodes are not there: {last} {(self.logs / '0.log').read_text()[-2000:]}")

    def close(self) -> None:
        """End all of them; may be called twice."""
        for number in list(self._nodes):
            with contextlib.suppress(OSError, StopIteration):
                os.kill(self._pid_one(number), signal.SIGKILL)
            self._nodes[number].kill()
            self._nodes.pop(number).wait()
        done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
        for line in done.splitlines():
            if line.startswith(self._prefix):
                subprocess.run(["ip", "netns", "del", line.split()[0]], check=False)

    def _pid_one(self, number: int) -> int:
        """The first process of a node, as this side sees it."""
        return next(iter(_children(self._nodes[number].pid)))


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
