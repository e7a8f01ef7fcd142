"""Ask the served model what people will do, before they are seen to do it, and score its answers.

Prequential (predictive sequential) evaluation: test, then learn. Three answers are scored for everyone who acts in the next
slice, all over HTTP: the looped model, the model frozen after turn 1 (what each subject met since is sent along with the
request), and popularity.

Source: Dawid, Present position and potential developments: the prequential approach, JRSS A 147, 1984.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.config import Config
from gyral.curate.interactions import COLUMNS, Until, decide
from gyral.event.layout import Layout
from gyral.ingest.files import Slice
from gyral.lake.dataset import Dataset
from gyral.model.evaluate import mean, not_met_before, score
from gyral.serve.wire import POPULARITY
from gyral.served import FROZEN, Models, ServedModel

K = 10
MAX_RECENT = 500
MAX_RECENT_BYTES = 32_768
"""Half of what a request may have by default."""


class Truth(NamedTuple):
    """Who acted in a slice, from which country, and which objects each then met; `num_acted` counts those not asked too."""

    num_acted: int
    subjects: list[str]
    countries: list[str | None]
    objects: list[list[str]]


class Scored(NamedTuple):
    """One turn's answers in numbers.

    Attributes
    ----------
    quality : `num_acted`, `num_asked`, `num_known`, and `ndcg_at_10`, `recall_at_10`, `hit_at_10` for looped, frozen and
        popularity, the same under `known` for the subjects that the looped model had seen; None over nobody.
    p99_ms : latency of the looped model's answers, None when nobody was asked.
    first_at : when its first answer came (`time.monotonic`).
    """

    quality: dict[str, Any]
    p99_ms: float | None
    first_at: float | None


def learned(slices: list[Slice], turn: int) -> Until:
    """What has been shown after a turn: everything before a time, and what the slices so far hold of that very time."""
    end = slices[turn - 1].events["event_time"][-1]
    then = [part.events.filter(pc.equal(part.events["event_time"], end)) for part in slices[:turn]]
    return Until(_micros(end), frozenset(name for rows in then for name in rows["event_id"].to_pylist()))


def truth_of(part: Slice, layout: Layout, config: Config) -> Truth:
    """What people really did in a slice, by the curation that the model learned from; at most `loop.max_asked` of them."""
    rows, _, _ = decide(part.events.select(COLUMNS).to_batches(), [layout] if layout.rules or layout.title else [], config)
    met = rows.group_by(["subject"], use_threads=False).aggregate([("object", "distinct"), ("country", "first")])
    met = met.sort_by("subject")
    num_acted = met.num_rows
    if num_acted > config.loop.max_asked:
        asked = np.random.default_rng(config.train.seed).choice(num_acted, config.loop.max_asked, replace=False)
        met = met.take(pa.array(np.sort(asked)))
    return Truth(
        num_acted,
        met["subject"].to_pylist(),
        met["country_first"].to_pylist(),
        [sorted(objects) for objects in met["object_distinct"].to_pylist()],
    )


def score_turn(truth: Truth, data: Dataset, first: Slice, models: Models, served: ServedModel) -> Scored:
    """Ask for everyone in the truth and score the answers.

    Parameters
    ----------
    data : what the looped model has learned.
    first : the slice that the frozen model learned. What a subject met after it is sent along with each request to that model,
        as an application would, so the gain of the loop is that of learning and not of remembering.
    models : which models must answer.
    """
    asked = {"looped": served.ask(_requests(truth), models.looped)}
    rows = data.read()
    asked["frozen"] = served.ask(_requests(truth, FROZEN, met_since(rows, first)), models.frozen)
    asked["popularity"] = served.ask(_requests(truth, POPULARITY), models.looped)
    relevant = truth.objects if data.manifest.repeats else not_met_before(truth.subjects, truth.objects, rows)
    scored = np.array([bool(objects) for objects in relevant], dtype=bool)
    seen = set(rows["subject"].unique().to_pylist())
    is_known = np.array([subject in seen for subject in truth.subjects], dtype=bool)[scored]
    every: dict[str, dict[str, float | None]] = {}
    known: dict[str, dict[str, float | None]] = {}
    for name, answered in asked.items():
        values = score(list(compress(answered.objects, scored)), list(compress(relevant, scored)), K)
        for which, means in ((every, mean(values)), (known, mean(values, is_known))):
            for metric, value in means.items():
                which.setdefault(metric, {})[name] = value
    looped = asked["looped"]
    p99_ms = 1e3 * float(np.quantile(looped.latencies_s, 0.99)) if looped.latencies_s else None
    counts = {"num_acted": truth.num_acted, "num_asked": len(truth.subjects)}
    quality = {**counts, "num_known": int(is_known.sum()), **every, "known": known}
    return Scored(quality, p99_ms, looped.first_at)


def met_since(rows: pa.Table, first: Slice) -> dict[str, list[str]]:
    """Objects each subject met after the first slice, oldest first, as many of the last as a request may hold.

    At the very time of the cut a subject is on one side of it only, because no cut falls inside (subject, time).
    """
    end = first.events["event_time"][-1]
    before = first.events.filter(pc.equal(first.events["event_time"], end))["subject"].unique()
    is_then = pc.and_(
        pc.equal(rows["event_time"], end), pc.invert(pc.is_in(rows["subject"], value_set=before.cast(pa.string())))
    )
    later = rows.filter(pc.or_(pc.greater(rows["event_time"], end), is_then))
    met: dict[str, list[str]] = {}
    for subject, object_ in zip(later["subject"].to_pylist(), later["object"].to_pylist(), strict=True):
        met.setdefault(subject, []).append(object_)
    return {subject: _newest(objects) for subject, objects in met.items()}


def _requests(truth: Truth, slot: str | None = None, recent: Mapping[str, list[str]] | None = None) -> list[dict[str, Any]]:
    """One request for each subject."""
    requests: list[dict[str, Any]] = []
    for subject, country in zip(truth.subjects, truth.countries, strict=True):
        request: dict[str, Any] = {"subject": subject, "k": K}
        context: dict[str, Any] = {} if country is None else {"country": country}
        if recent and subject in recent:
            context["recent"] = recent[subject]
        if context:
            request["context"] = context
        if slot is not None:
            request["model"] = slot
        requests.append(request)
    return requests


def _newest(objects: list[str]) -> list[str]:
    size, kept = 0, 0
    for object_ in reversed(objects[-MAX_RECENT:]):
        size += len(msgspec.json.encode(object_)) + 1
        if size > MAX_RECENT_BYTES:
            break
        kept += 1
    return objects[len(objects) - kept :]


def _micros(moment: pa.Scalar) -> int:
    value: int = moment.cast(pa.int64()).as_py()
    return value
