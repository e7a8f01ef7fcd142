"""A served model as the loop sees it: `gyral serve` in its own process, swapped to the newest model and asked over HTTP."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self, TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from gyral.config import Config
from gyral.config.sections import Caller, Collect, Key, Serve
from gyral.errors import ServeError
from gyral.files import write_atomic
from gyral.keys import LOOP, new_key
from gyral.model.card import FOLDER as MODELS
from gyral.progress import Meter
from gyral.run import Run
from gyral.serve.client import RECOMMEND, ask_many, post, send_batches, wait_for_model
from gyral.toml import toml

START_TIMEOUT_S = 60.0
SEND_ROWS = 8_192


Part = TypeVar("Part", Serve, Collect)

FROZEN = "frozen"
"""The slot of the model of turn 1, kept."""


class Models(NamedTuple):
    """Names of the model that learned everything so far, and of the one of turn 1."""

    looped: str
    frozen: str


class Answers(NamedTuple):
    """Bodies in the order of the requests; seconds each answer took; when the first came (`time.monotonic`)."""

    bodies: list[dict[str, Any]]
    latencies_s: list[float]
    first_at: float | None

    @property
    def objects(self) -> list[list[str]]:
        """Objects that each request was recommended, best first."""
        return [[item["object"] for item in each["items"]] for each in self.bodies]

    @property
    def p99_ms(self) -> float | None:
        """Latency that one in a hundred was over; None when nobody was asked."""
        return 1e3 * float(np.quantile(self.latencies_s, 0.99)) if self.latencies_s else None


class ServedModel:
    """`gyral serve` in its own process, following the newest version of one model name.

    The child stops when this process goes, however it goes: it watches its standard input.
    """

    def __init__(self, root: Path, config: Config, run: Run) -> None:
        self.url = ""
        self._root, self._config, self._run = root, config, run
        self._secret, self._digest = new_key()
        self._name = ""
        self._followed: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()
        for name in self._followed:  # or every later server would hold those models too
            (self._root / MODELS / f"{name}.slots.json").unlink(missing_ok=True)

    def follow(self, model: str, slots: dict[str, str]) -> None:
        """Return once the server answers with this model; a first or another model name starts a server of its own.

        Raises
        ------
        ServeError : it did not start or load the model in time; its last log line is told.
        """
        name = model.partition("@")[0]
        self._followed.add(name)
        write_atomic(self._root / MODELS / f"{name}.slots.json", msgspec.json.encode(slots))
        if name != self._name:
            self._stop()
            self._start(name)
        try:
            wait_for_model(self.url, model, START_TIMEOUT_S, self._secret)
        except ServeError as error:
            raise ServeError(
                error.what, why=error.why or self._last_line(), where=str(self._log_path), hint=error.hint
            ) from None

    def ask(self, requests: Sequence[dict[str, Any]], model: str, path: str = RECOMMEND) -> Answers:
        """Send all requests, some at a time; answers in order.

        Parameters
        ----------
        path : of the route.
        model : the one that must answer: another process may have published a newer version meanwhile.

        Raises
        ------
        ServeError : one of them failed, or another model answered; the first failure is told.
        """
        meter = self._run.meter("requests", len(requests), verb="ask")
        first_at: list[float] = []

        def on_progress(done: int) -> None:
            if not first_at:
                first_at.append(time.monotonic())
            meter.update(done)

        responses, latencies = asyncio.run(ask_many(self.url, requests, path, *self.headers, on_progress=on_progress))
        failed = [response for response in responses if response.status != 200]
        if failed:
            raise ServeError(
                f"{len(failed):,} of {len(requests):,} requests failed",
                why=failed[0].body[:500].decode("utf-8", "replace"),
            )
        answered = [response.json() for response in responses]
        other = next((each["model"] for each in answered if each["model"] != model), None)
        if other is not None:
            why = "another process publishes models of this name"
            raise ServeError(f"`{other}` answered instead of `{model}`", why=why, hint="give each its own folder: `--root NEW`")
        return Answers(answered, latencies, first_at[0] if first_at else None)

    def send(self, events: pa.Table, meter: Meter) -> None:
        """Send what people did to the server's `POST /v1/events`; returns once all of it is on the disk.

        Parameters
        ----------
        events : with the columns of an event; none of them may lack a subject.
        meter : counts on.

        Raises
        ------
        ServeError : some of it was refused.
        """
        sent = events.drop_columns(["ingest_time"])
        rows = min(SEND_ROWS, self._config.collect.max_events)
        bodies = (_stream(batch) for batch in sent.to_batches(max_chunksize=rows))

        def on_answer(told: dict[str, Any]) -> None:
            if told["quarantined"]:
                raise ServeError("the server took some events for bad ones", why=str(told["quarantined"]))
            meter.update(meter.record.done + told["accepted"] + told["duplicate"])

        media = "application/vnd.apache.arrow.stream"
        asyncio.run(send_batches(self.url, bodies, *self.headers, media=media, on_answer=on_answer))

    def tell(self, said: Sequence[dict[str, Any]]) -> None:
        """Send feedback on answers; returns once it is on the disk.

        Raises
        ------
        ServeError : it was refused.
        """
        step = self._config.collect.max_events
        for start in range(0, len(said), min(step, 200)):
            body = msgspec.json.encode(said[start : start + min(step, 200)])
            asyncio.run(post(self.url, "/v1/feedback", body, *self.headers))

    @property
    def pid(self) -> int:
        """Of the server's process, 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def headers(self) -> list[str]:
        """What the loop says beside what it sends and asks: a key of its own, which is good where any is wanted."""
        return [f"authorization: Bearer {self._secret}"]

    @property
    def _log_path(self) -> Path:
        return self._run.folder / "serve.log"

    def _start(self, name: str) -> None:
        command = [sys.executable, "-P", "-m", "gyral", "serve", name, "--root", str(self._root), "--host", "127.0.0.1"]
        command += ["--port", "0", "--json", "--child-of", str(self._run.number)]
        command += ["--set", f"lake={toml(self._config.lake)}"]  # its answers go to the log of that lake
        for name_, value in msgspec.to_builtins(self._with_own(self._config.serve, Caller)).items():
            if name_ not in ("host", "port"):
                command += ["--set", f"serve.{name_}={toml(value)}"]
        collect = self._with_own(self._config.collect, Key)
        command += ["--set", f"collect.keys={toml(msgspec.to_builtins(collect.keys))}"]
        command += ["--set", f"collect.keys_file={toml(collect.keys_file)}"]
        self._name = name
        self._log = open(self._log_path, "ab")  # noqa: SIM115 (closed by __exit__)
        environment = {**os.environ, "GYRAL_NO_PROGRESS": ""}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
            env=environment,
        )
        line = self._first_line(self._process.stdout)
        try:
            self.url = msgspec.json.decode(line)["url"]
        except (msgspec.DecodeError, KeyError, TypeError):
            raise ServeError("the server did not start", why=self._last_line(), where=str(self._log_path)) from None
        self._run.note(f"serve    answers at {self.url}, pages at {self.url}/ while the loop runs")

    def _with_own(self, part: Part, key: type[Caller] | type[Key]) -> Part:
        """With the loop's own key, which is good from the moment on in which keys are wanted."""
        own: list[Any] = [key(name=LOOP, sha256=self._digest)]
        return msgspec.structs.replace(part, keys=[*part.keys, *own])

    def _first_line(self, output: IO[bytes] | None) -> bytes:
        """What the server says once it answers; empty when it ends or is too slow."""
        line, deadline = b"", time.monotonic() + START_TIMEOUT_S
        while output is not None and not line.endswith(b"\n") and (left := deadline - time.monotonic()) > 0:
            if select.select([output], [], [], left)[0]:
                part = os.read(output.fileno(), 1 << 16)
                if not part:
                    break
                line += part
        return line

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.returncode:
                self._run.note(f"serve    ended with code {self._process.returncode}: {self._last_line()}")
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def _last_line(self) -> str:
        try:
            lines = self._log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        return next((line for line in lines if line.startswith("error:")), lines[-1] if lines else "")


def _stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body
