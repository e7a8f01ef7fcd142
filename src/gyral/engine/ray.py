"""The cluster engine: Ray Core tasks, one an item, in order, never more in flight than twice the workers.

`ray://` starts Ray on this machine, on 127.0.0.1 alone and behind a token of this process, without its dashboard, its usage
reports and its log lines, and ends it with the last engine of the process; `ray://HOST:PORT` and `ray://auto` join a cluster
that is there and leave it there. Ray of this machine costs seconds and half a gigabyte before the first item, and a call about
a millisecond, so `local` stays the default and items should be batches. What runs where:

- The function is put into the object store once a map; an item travels with its task, and Arrow and numpy data is read where it
  lies in the store. Results are copied out of it, because what a caller keeps would fill it and stop the workers.
- The first item runs alone: workers share numba's cache on the disk, so kernels that nobody has compiled yet are then compiled
  once and not once a worker (one kernel, four workers: 3.0 CPU-s instead of 5.6, and half the time).
- A worker that dies (killed, out of memory) takes nothing along: its task runs again, up to `RETRIES` times. Functions are
  pure, so the result is the same.
- A joined cluster gets the source of this gyral; its machines need the packages that gyral needs, in the same versions.

Tried and left out: Ray Data (40 against 129 MB/CPU-s of a plain loop, from Parquet to Parquet), and actors, which have to be
placed and replaced where tasks are simply run again.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gyral.engine.base import Item, Result, num_cores
from gyral.engine.listening import LOOPBACK
from gyral.errors import GyralError, MissingExtra, UsageError

RETRIES = 3
LAST_LINES = 6
ANSWER_S = 5.0
"""A cluster that takes no connection in this time is not there."""
PACKAGE = Path(__file__).resolve().parents[1]
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning a start
    # A machine that vanishes says nothing, and Ray waits minutes for what it was doing: 25 s with these.
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
}


class RayEngine:
    """Tasks of Ray, here or on a cluster.

    Parameters
    ----------
    address : `HOST:PORT` or `auto` of a cluster to join; empty: Ray of this machine, started here.
    workers : tasks at once; the default is the number of cores of this machine, or those of the cluster.
    note : told what takes long.

    Raises
    ------
    MissingExtra : Ray is not installed.
    UsageError : no cluster answers, or this process is in another one.
    """

    def __init__(self, address: str = "", workers: int | None = None, note: Callable[[str], None] | None = None) -> None:
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise UsageError("`--on ray` needs a number of workers", hint="for example `--on ray://workers=4`")
        self._is_open = False
        ray = library(is_own=not address)
        if not address and workers is None:
            workers = num_cores()
        _enter(ray, address, workers, note or (lambda _: None))
        self._is_open = True
        self.workers = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        self._remote = ray.remote(_call).options(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function(item)` for every item, in order."""
        if not self._is_open:
            raise UsageError("this engine was closed", hint="`connect` another one")
        ray = library()
        shared = ray.put((function, os.getcwd()))
        waiting: deque[tuple[Any, str]] = deque()
        at_once = 1
        try:
            for number, item in enumerate(items):
                waiting.append((self._remote.remote(shared, _pack(item)), _name(number, item)))
                if len(waiting) >= at_once:
                    yield _result(ray, *waiting.popleft())
                    at_once = 2 * self.workers
            while waiting:
                yield _result(ray, *waiting.popleft())
        finally:
            for task, _ in waiting:
                with contextlib.suppress(Exception):  # Ray may be gone, which is as good
                    ray.cancel(task)

    def close(self) -> None:
        """Leave the cluster, and end the one that was started here with its last engine; may be called twice."""
        if self._is_open:
            self._is_open = False
            _leave(library())


class _Refused(NamedTuple):
    """A `GyralError` of a worker in parts, as some of its classes are made of other arguments than they keep."""

    kind: type[GyralError]
    parts: tuple[str, str, str, str]
    trace: str


class _Session:
    """What this process has of Ray: one connection, which its engines share."""

    def __init__(self, address: str, folder: str | None, is_own: bool) -> None:
        self.address, self.folder, self.is_own = address, folder, is_own
        self.engines = 0


_session: _Session | None = None
_auth: dict[str, str] = {}
"""How a local Ray is kept from other users of this machine; Ray reads it when it is imported, and once a process."""


def library(is_own: bool = False) -> Any:
    """Import Ray with what it reads at import; `is_own`: for a Ray of this process, behind a token.

    A cluster has its own way of knowing who is let in. A token that it has not given makes its calls back to this process fail,
    and it ends every actor whose owner it cannot reach.
    """
    if is_own and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        _auth.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    with _environment(_QUIET | _auth):
        try:
            import ray
        except ImportError:
            raise MissingExtra("ray", "ray", "`--on ray://`") from None
    return ray


def _enter(ray: Any, address: str, workers: int | None, note: Callable[[str], None]) -> None:
    global _session
    if _session is None:
        if ray.is_initialized():  # whoever did that also ends it
            _session = _Session(address, None, False)
        elif address and _auth:
            why = "Ray reads once a process whom it trusts, and this one has started a Ray of its own"
            raise UsageError(f"this process cannot join `ray://{address}`", why=why, hint="join it from another process")
        else:
            _speak_on_stderr()
            _session = _join(ray, address, note) if address else _start(ray, workers, note)
    elif _session.address != address:
        now = f"ray://{_session.address}"
        raise UsageError(f"this process is in `{now}` and cannot be in `ray://{address}` too", hint="close that engine first")
    _session.engines += 1


def _leave(ray: Any) -> None:
    global _session
    if _session is None:
        return
    _session.engines -= 1
    if _session.engines == 0:
        gone, _session = _session, None
        if gone.is_own:
            ray.shutdown()
        if gone.folder is not None:
            shutil.rmtree(gone.folder, ignore_errors=True)


def _start(ray: Any, workers: int | None, note: Callable[[str], None]) -> _Session:
    """Start Ray on the loopback address, in a folder of its own that goes with it."""
    services: Any = importlib.import_module("ray._private.services")

    note(f"ray      starting on this machine, {workers} workers; it takes some seconds")
    # Paths of its sockets have 62 more bytes, and the system takes 107.
    folder = tempfile.mkdtemp(prefix="gyral-", dir=None if len(tempfile.gettempdir()) <= 30 else "/tmp")
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]))
    try:
        with _loopback(), _environment(_QUIET | _auth | {"PYTHONPATH": path}):
            ray.init("local", num_cpus=workers, include_dashboard=False, _node_ip_address=LOOPBACK, _temp_dir=folder, **_SILENT)
        if services.get_node_ip_address() != LOOPBACK:
            raise UsageError("Ray of this version would listen beyond this machine", hint="pip install 'gyral[ray]'")
    except BaseException:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return _Session("", folder, True)


def _join(ray: Any, address: str, note: Callable[[str], None]) -> _Session:
    note(f"ray      joining {address}")
    code = {"py_modules": [str(PACKAGE)], "excludes": ["__pycache__"]}
    try:
        found, is_loopback = _find(address)  # Ray itself would try an address without an answer for minutes
        with _loopback() if is_loopback else contextlib.nullcontext(), _environment(_QUIET | _auth):
            ray.init(found, runtime_env=code, **_SILENT)
    except (OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        raise UsageError(
            f"no Ray cluster was joined at `{address}`",
            why=_last_line(str(error)),
            hint="this machine must be one of the cluster: `ray start --address=HOST:PORT`; `--on ray://` needs none",
        ) from None
    return _Session(address, None, True)


def _find(address: str) -> tuple[str, bool]:
    """Where a cluster answers, and whether it does on the loopback address alone."""
    services: Any = importlib.import_module("ray._private.services")

    found = services.get_ray_address_from_environment("auto", None) if address == "auto" else address
    host, _, port = found.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"`{found}` is not HOST:PORT")
    host = host.strip("[]")
    socket.create_connection((host, int(port)), ANSWER_S).close()
    if host not in ("127.0.0.1", "localhost", "::1"):
        return found, False
    try:
        socket.create_connection((services.get_node_ip_address(), int(port)), ANSWER_S).close()
    except OSError:
        return f"{LOOPBACK}:{port}", True
    return found, False


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Ray replaces 127.0.0.1 by the address of the machine, but where clusters are off, whose default hangs on the system."""
    ray_constants: Any = importlib.import_module("ray._private.ray_constants")

    was_on, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        with _environment({ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):  # for the processes it starts
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = was_on


_SILENT = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}


def _speak_on_stderr() -> None:
    """Have what Ray tells of nodes, even when silent, go where notes go: it prints to stdout, where a verb's result is."""
    worker: Any = importlib.import_module("ray._private.worker")
    told = getattr(worker, "print_to_stdstream", None)
    if told is not None and not isinstance(told, partial):
        worker.print_to_stdstream = partial(_as_error, told)


def _as_error(told: Callable[..., None], data: dict[str, Any], *more: Any, **named: Any) -> None:
    told({**data, "is_err": True}, *more, **named)


def address_of(on: str) -> str:
    """The cluster that `--on` names, `HOST:PORT` or `auto`; empty: none, or a Ray of this machine."""
    name, _, rest = on.partition("://")
    return next((part for part in rest.split(",") if part and "=" not in part), "") if name == "ray" else ""


def enter_folder(folder: str) -> None:
    """Work where the command was given, so that its relative paths mean the same, if this machine has that folder."""
    with contextlib.suppress(OSError):
        os.chdir(folder)


def _call(shared: tuple[Callable[[Any], Any], str], item: Any) -> Any:
    """What a task runs."""
    function, folder = shared
    enter_folder(folder)
    try:
        return _pack(function(_unpack(item)))
    except GyralError as error:
        return _Refused(type(error), (error.what, error.where, error.why, error.hint), traceback.format_exc())


def _result(ray: Any, task: Any, name: str) -> Any:
    """Wait for a task; its error as the function raised it, with the end of the worker's trace as a note."""
    failed: BaseException
    try:
        result = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        trace = _last_lines(str(error))
        cause = error.cause
        failed = cause if isinstance(cause, Exception) else GyralError(f"{name} failed on a worker")
        if isinstance(failed, GyralError):
            failed.why = trace
        else:
            failed.add_note(f"{name}, on a worker of Ray:\n{trace}")
    except ray.exceptions.RayError as error:
        failed = GyralError(
            f"{name} could not be worked on: its worker died {RETRIES + 1} times",
            why=_last_line(str(error)),
            hint="smaller batches need less memory; `--on local` shows what happens",
        )
    else:
        if not isinstance(result, _Refused):
            return _own(result)
        failed = result.kind.__new__(result.kind)
        what, where, why, hint = result.parts
        GyralError.__init__(failed, what, where=where, why=why, hint=hint)
        failed.add_note(f"{name}, on a worker of Ray:\n{_last_lines(result.trace)}")
    raise failed from None


class _Packed(NamedTuple):
    """Arrow data as an IPC stream: of a slice its own rows alone.

    Ray sends the whole of what a slice was cut from: 100 slices of 32,768 rows of a table of 80 MB there and back took 16.1 s,
    and take 0.6 s.
    """

    kind: str
    stream: pa.Buffer


def _pack(value: Any) -> Any:
    """The value with its Arrow data packed, through tuples, lists and dicts."""
    if isinstance(value, pa.RecordBatch | pa.Table | pa.Array):
        table = pa.record_batch([value], ["_"]) if isinstance(value, pa.Array) else value
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write(table)
        kind = "array" if isinstance(value, pa.Array) else "table" if isinstance(value, pa.Table) else "batch"
        return _Packed(kind, sink.getvalue())
    return _each(_pack, value)


def _unpack(value: Any) -> Any:
    """What was packed, looked at where it lies."""
    if isinstance(value, _Packed):
        reader = pa.ipc.open_stream(value.stream)
        if value.kind == "table":
            return reader.read_all()
        batch = reader.read_next_batch()
        return batch.column(0) if value.kind == "array" else batch
    return _each(_unpack, value)


def _own(value: Any) -> Any:
    """What was packed, in memory of this process."""
    if isinstance(value, _Packed):
        return _unpack(_Packed(value.kind, pa.py_buffer(value.stream.to_pybytes())))
    if isinstance(value, np.ndarray):
        return value.copy()
    return _each(_own, value)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, tuple):
        every = [change(each) for each in value]
        return type(value)(*every) if hasattr(value, "_fields") else tuple(every)
    if isinstance(value, list):
        return [change(each) for each in value]
    if isinstance(value, dict):
        return {key: change(each) for key, each in value.items()}
    return value


def _name(number: int, item: Any) -> str:
    is_table = isinstance(item, pa.RecordBatch | pa.Table)
    return f"item {number} ({item.num_rows:,} rows)" if is_table else f"item {number} ({item!r:.60})"


def _last_lines(trace: str) -> str:
    lines = [line for line in trace.rstrip().splitlines() if line.strip()]
    return "\n".join(lines[-LAST_LINES:])


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that Ray's processes inherit from this one while it starts them; they only fork to run another program."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*not fork-safe")
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
