"""Ask the served model what people will do, before they are seen to do it, and score its answers.

Prequential (predictive sequential) evaluation: test, then learn. Three answers are scored for everyone who acts in the next
slice, all over HTTP: the looped model, the model frozen after turn 1 (what each subject met since is sent along with the
request), and popularity.

Source: Dawid, Present position and potential developments: the prequential approach, JRSS A 147, 1984.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.config import Config
from gyral.curate.interactions import COLUMNS, Until, decide
from gyral.errors import ServeError
from gyral.event.clock import parse_times
from gyral.event.layout import Layout
from gyral.files import write_atomic
from gyral.ingest.files import Slice
from gyral.lake.dataset import Dataset
from gyral.model.card import FOLDER as MODELS
from gyral.model.evaluate import mean, score
from gyral.run import Run
from gyral.serve.client import ask_many, wait_for_model

K = 10
SLOTS = {"looped": None, "frozen": "frozen", "popularity": "popularity"}
START_TIMEOUT_S = 60.0
MAX_RECENT = 500


class Truth(NamedTuple):
    """Who acted in a slice, from which country, and which objects each then met."""

    subjects: list[str]
    countries: list[str | None]
    objects: list[list[str]]


def learned(slices: list[Slice], turn: int) -> Until:
    """What has been shown after a turn: a time, and the events of later slices that happened at that very time."""
    end = slices[turn - 1].events["event_time"][-1]
    later = [part.events.filter(pc.equal(part.events["event_time"], end)) for part in slices[turn:]]
    held_back = frozenset(name for rows in later for name in rows["event_id"].to_pylist())
    return Until(end.cast(pa.int64()).as_py(), held_back)


def truth_of(part: Slice, layout: Layout, config: Config) -> Truth:
    """What people really did in a slice, by the same curation that the model learned from."""
    rows, _, _ = decide(part.events.select(COLUMNS).to_batches(), [layout] if layout.rules or layout.title else [], config)
    met = rows.group_by(["subject"], use_threads=False).aggregate([("object", "distinct"), ("country", "first")])
    met = met.sort_by("subject")
    return Truth(
        met["subject"].to_pylist(),
        met["country_first"].to_pylist(),
        [sorted(objects) for objects in met["object_distinct"].to_pylist()],
    )


def score_turn(truth: Truth, data: Dataset, first: str | None, served: ServedModel, run: Run) -> tuple[dict[str, Any], float]:
    """Ask for everyone in the truth and score the answers.

    Parameters
    ----------
    data : what the looped model has learned.
    first : until when the frozen model learned (RFC 3339). What a subject met after that is sent along with each request to
        it, as an application would, so the gain of the loop is that of learning and not of remembering.

    Returns
    -------
    `ndcg_at_10`, `recall_at_10`, `hit_at_10` for looped, frozen and popularity, the same under `known` for the subjects that
    the looped model had seen; and the p99 latency of the looped model's answers in milliseconds.
    """
    rows = data.read()
    seen = set(rows["subject"].unique().to_pylist())
    is_known = np.array([subject in seen for subject in truth.subjects], dtype=bool)
    since = _met_since(rows, first)
    every: dict[str, dict[str, float]] = {}
    known: dict[str, dict[str, float]] = {}
    p99_ms = 0.0
    for name, slot in SLOTS.items():
        answers, latencies = served.ask(truth, slot, since if name == "frozen" else {}, run)
        values = score(answers, truth.objects, K)
        for which, means in ((every, mean(values)), (known, mean(values, is_known))):
            for metric, value in means.items():
                which.setdefault(metric, {})[name] = round(value, 6)
        if slot is None:
            p99_ms = 1e3 * float(np.quantile(latencies, 0.99)) if latencies else 0.0
    return {"num_asked": len(is_known), "num_known": int(is_known.sum()), **every, "known": known}, p99_ms


def _met_since(rows: pa.Table, moment: str | None) -> dict[str, list[str]]:
    """Objects each subject met after a moment, oldest first, the last `MAX_RECENT` of them."""
    if moment is None:
        return {}
    later = rows.filter(pc.greater(rows["event_time"], parse_times(pa.array([moment]))[0]))
    met: dict[str, list[str]] = {}
    for subject, object_ in zip(later["subject"].to_pylist(), later["object"].to_pylist(), strict=True):
        met.setdefault(subject, []).append(object_)
    return {subject: objects[-MAX_RECENT:] for subject, objects in met.items()}


def baseline_slots(first_model: str) -> dict[str, str]:
    """The extra slots of the server: the model of turn 1, kept."""
    return {"frozen": first_model}


class ServedModel:
    """`gyral serve` in its own process, following the newest version of one model name.

    The child stops when this process goes, however it goes: it watches its standard input.
    """

    def __init__(self, root: Path, run: Run) -> None:
        self.url = ""
        self._root, self._run = root, run
        self._name = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def follow(self, model: str, slots: dict[str, str]) -> None:
        """Return once the server answers with this model; a first or another model name starts a server of its own.

        Raises
        ------
        ServeError : it did not start or load the model in time; its last log line is told.
        """
        name = model.partition("@")[0]
        write_atomic(self._root / MODELS / f"{name}.slots.json", msgspec.json.encode(slots))
        if name != self._name:
            self._stop()
            self._start(name)
        try:
            wait_for_model(self.url, model, START_TIMEOUT_S)
        except ServeError as error:
            raise ServeError(
                error.what, why=error.why or self._last_line(), where=str(self._log_path), hint=error.hint
            ) from None

    def ask(
        self, truth: Truth, slot: str | None, recent: Mapping[str, list[str]], run: Run
    ) -> tuple[list[list[str]], list[float]]:
        """Ask one slot for everyone; answers in order, and seconds each took."""
        requests: list[dict[str, Any]] = []
        for subject, country in zip(truth.subjects, truth.countries, strict=True):
            request: dict[str, Any] = {"subject": subject, "k": K}
            context: dict[str, Any] = {} if country is None else {"country": country}
            if subject in recent:
                context["recent"] = recent[subject]
            if context:
                request["context"] = context
            if slot is not None:
                request["model"] = slot
            requests.append(request)
        meter = run.meter("requests", len(requests), verb="ask")
        responses, latencies = asyncio.run(ask_many(self.url, requests, on_progress=lambda done: meter.update(done)))
        failed = [response for response in responses if response.status != 200]
        if failed:
            raise ServeError(
                f"{len(failed):,} of {len(requests):,} requests failed",
                why=failed[0].body[:500].decode("utf-8", "replace"),
            )
        return [[item["object"] for item in response.json()["items"]] for response in responses], latencies

    @property
    def _log_path(self) -> Path:
        return self._run.folder / "serve.log"

    def _start(self, name: str) -> None:
        command = [sys.executable, "-m", "gyral", "serve", name, "--root", str(self._root), "--host", "127.0.0.1"]
        command += ["--port", "0", "--json", "--child-of", str(self._run.number)]
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
        line = self._process.stdout.readline() if self._process.stdout is not None else b""
        try:
            self.url = msgspec.json.decode(line)["url"]
        except (msgspec.DecodeError, KeyError, TypeError):
            raise ServeError("the server did not start", why=self._last_line(), where=str(self._log_path)) from None
        self._run.note(f"serve    answers at {self.url}/v1/recommend, pages at {self.url}/ while the loop runs")

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
