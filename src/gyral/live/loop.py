"""`gyral loop --live`: a population comes to a server that learns from it within a second.

    population → collector → event log → learner → tables → cuts → replica in the server → what the next one is shown

Processes: this one (the population), the server, the learner, and shards where `params.at` says. The learner reads the log that
the collector writes, so nothing that was acknowledged can be missed; what it learned is served when its cut is on the disk and
the gate let it. At the end everything is in the lake, as after any loop.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.config import Config
from gyral.errors import GyralError, InputError, ServeError
from gyral.event.clock import TIMESTAMP, now_us
from gyral.event.layout import Layout
from gyral.ingest.drain import Drain
from gyral.ingest.files import Slice, append, cut, layout_of
from gyral.ingest.sources import open_source
from gyral.lake.table import Lake
from gyral.live.behaviour import Behaviour
from gyral.live.learner import Job
from gyral.live.population import Coming, Population, starts_of, visits_of
from gyral.live.spent import Spent
from gyral.live.watched import Watched
from gyral.log.opening import open_embedded
from gyral.log.sqlite import SqliteLog
from gyral.model import card as cards
from gyral.model.card import Card, Weights
from gyral.model.live import places
from gyral.params.deltas import compact
from gyral.progress import fixed
from gyral.run import Run
from gyral.served import FROZEN, ServedModel

FROZEN_SHARE = 0.2
EVERY_S = 1.0
GUESTS_S = 0.5
FOLD_S = 15.0
VISIBLE_TIMEOUT_S = 10.0


class Live:
    """One run of it: what comes, and the ends that are open."""

    def __init__(self, root: Path, config: Config, run: Run) -> None:
        self.root, self.config, self.run = root, config, run
        self.speed = float(config.loop.speed.removesuffix("x"))
        if self.speed <= 0:
            raise InputError(f"`--speed {config.loop.speed}` stands still", hint="`100000x`: a year in five minutes")
        source = open_source(config.ingest.source, root, run.note)
        layout = layout_of(source, config)
        run.reads("source", config.ingest.source, source.digest)
        self.name = config.curate.name or source.name
        (part,) = cut(source, layout, config, 1, run.meter("rows", verb="read"))
        self.digest = f"{source.digest}:{layout.digest}:live"
        has_subject = pc.fill_null(pc.not_equal(part.events["subject"], ""), False)
        self.events = part.events.filter(has_subject).drop_columns(["ingest_time"]).combine_chunks()
        self.guests = Slice(part.events.filter(pc.invert(has_subject)), part.quarantine)
        self.num_events = part.events.num_rows
        self.visits, self.num_kept = self._visits(part.events.filter(has_subject), layout)
        self.lake = Lake.of(root, config)
        self.folder = places.folder_of(root, f"{self.name}-{run.number}")
        self.shown: dict[str, Any] = {}
        """What the server told of itself last."""
        self.spent = Spent()

    def _visits(self, events: pa.Table, layout: Layout) -> tuple[list[Coming], int]:
        """Visits, with what the learner's rules take of each; and how many events that are."""
        curate = Behaviour(self.config, layout)
        rows = events.append_column("row", pa.array(np.arange(events.num_rows).astype(str)))
        rows = rows.set_column(rows.column_names.index("event_id"), "event_id", rows["row"]).drop_columns(["row"])
        starts = starts_of(events)
        taken: dict[int, dict[str, None]] = {}
        total = 0
        for batch in rows.combine_chunks().to_batches(max_chunksize=65_536):
            kept = curate.places(batch)
            ids = np.array(batch.column("event_id").take(pa.array(kept)).to_pylist(), np.int64)
            firsts = starts[np.searchsorted(starts, ids, "right") - 1]
            objects = batch.column("object").take(pa.array(kept)).to_pylist()
            for first, name in zip(firsts.tolist(), objects, strict=True):
                taken.setdefault(first, {})[name] = None
            total += len(kept)
        share = min(1.0, self.config.loop.max_asked / max(len(taken), 1))
        names = {first: list(found) for first, found in taken.items()}
        return visits_of(events, names, share, self.config.train.seed), total

    def job(self, log: SqliteLog) -> Job:
        """What the learner is to do, from what is in the log by now on."""
        start = {partition: log.end(partition) for partition in log.partitions()}
        freeze_at = max(int(self.num_kept * FROZEN_SHARE), 1)
        return Job(
            str(self.root.resolve()), self.folder.name, self.config, start, freeze_at,
            f"{self.name}-frozen", self.run.number,
        )  # fmt: skip

    def publish_model(self, folder: str) -> str:
        """The model that follows the learner; its name."""
        card = Card(family="live", dataset=self.name, run=self.run.number, metric="recall_at_10")
        settings = {"kind": "live", "name": folder, "dim": self.config.params.dim, "seed": self.config.train.seed}
        return cards.publish(self.root, f"{self.name}-live", Weights({"none": np.zeros(1)}, settings), None, card).model


def live(root: Path, config: Config, run: Run) -> dict[str, Any]:
    """Let the population of a source come; returns the summary.

    Raises
    ------
    InputError : the source has no visits.  ServeError, RankError : the server or the learner gave up.
    """
    world = Live(root, config, run)
    if not world.num_kept:
        raise InputError("nobody of this source does anything that could be learned", hint="gyral curate NAME says why")
    seconds = (world.visits[-1].at_us - world.visits[0].at_us) / 1e6 / world.speed
    run.note(f"loop     {world.name}: {len(world.visits):,} visits, {world.num_events:,} events in about {seconds:,.0f} s")
    with open_embedded(world.lake.log_folder, config) as log:
        job = world.job(log)
        model = world.publish_model(job.name)
        run.writes("model", model)
        with ServedModel(root, config, run) as served:
            with Watched(job, run.folder, run.note) as learner:
                served.follow(model, {})
                run.note(f"live     its page: {served.url}/live")
                people = Population(
                    served.url, world.events, world.visits, world.speed, config.loop.users, served.headers,
                    config.params.admit_count,
                )  # fmt: skip
                result = asyncio.run(_together(world, people, served, learner, log))
                told = learner.finish()
            world.shown = _wait_visible(served, told["published"])
            world.spent.look(served.pid, 0)
            result |= _summary(world, people, told, time.monotonic())
        drained = Drain.of(world.lake, log, config).run()
    run.writes("lake", "events", drained.version)
    result["committed"] = drained.accepted
    run.summarize(**result)
    recall = ", ".join(f"{slot} {fixed(value)}" for slot, value in result["recall_at_10"].items())
    fresh = result["freshness_s"]
    run.note(f"loop     recall@10 {recall}; an event is served after {fresh['p50']} s (p50), {fresh['p99']} s (p99)")
    return result


async def _together(world: Live, people: Population, served: ServedModel, learner: Watched, log: SqliteLog) -> dict[str, Any]:
    begun = time.monotonic()
    coming = asyncio.ensure_future(people.run())
    guests = asyncio.ensure_future(_guests(world, people, log, coming))
    short = asyncio.ensure_future(_keep_short(world))
    every = asyncio.ensure_future(_every_second(world, people, served, learner, begun))
    try:
        both: asyncio.Future[Any] = asyncio.gather(coming, guests)
        await asyncio.wait([both, every], return_when=asyncio.FIRST_COMPLETED)
        if every.done():  # it only ends by an error
            every.result()
        await both
    finally:
        for task in (coming, guests, every, short):
            task.cancel()
        await asyncio.gather(coming, guests, every, short, return_exceptions=True)
    return {"seconds": round(time.monotonic() - begun, 2)}


async def _guests(world: Live, people: Population, log: SqliteLog, coming: asyncio.Future[None]) -> None:
    """Events without a subject, which no device sends, and rows that are none, through the log as a file's are."""
    times = world.guests.events["event_time"].cast(pa.int64()).to_numpy()
    meter = world.run.meter("rows", world.guests.events.num_rows, verb="ingest")
    at, is_last = 0, False
    while not is_last:
        is_last = coming.done()
        end = len(times) if is_last else int(np.searchsorted(times, people.now_us, "right"))
        if end > at:
            part = _as_of_now(world.guests.events.slice(at, end - at)).combine_chunks().to_batches()
            await asyncio.to_thread(append, world.lake, log, f"{world.digest}:{at}", [(each, None) for each in part], meter)
            at = end
        await asyncio.wait([coming], timeout=GUESTS_S)
    bad = world.guests.quarantine.combine_chunks().to_batches()
    await asyncio.to_thread(append, world.lake, log, f"{world.digest}:bad", [(None, each) for each in bad], meter)


async def _keep_short(world: Live) -> None:
    """Fold what was published of the shards' logs, so that a year takes no more room than a minute."""
    while True:
        await asyncio.sleep(FOLD_S)
        published = places.read_published(world.folder)
        for shard, last in published.cuts.items():
            try:
                await asyncio.to_thread(compact, world.folder / places.SHARDS / shard, world.config.params.keep_s, last=last)
            except GyralError as error:  # the disk is full: the log grows until there is room
                world.run.note(f"live     the log of {shard} stays as long as it is: {error.what}")


def _as_of_now(events: pa.Table) -> pa.Table:
    """They come in now, not when the source was read."""
    place = events.column_names.index("ingest_time")
    now = pa.repeat(pa.scalar(now_us(), pa.int64()), events.num_rows).cast(TIMESTAMP)
    return events.set_column(place, events.schema.field(place), now)


async def _every_second(world: Live, people: Population, served: ServedModel, learner: Watched, begun: float) -> None:
    """Look at everybody, write it down, and let the frozen copy answer once it is there."""
    meter = world.run.meter("events", world.num_events, verb="loop")
    before, rows_before, at = 0, 0, time.monotonic()
    while True:
        await asyncio.sleep(EVERY_S)
        learner.check()
        world.shown = await asyncio.to_thread(_described, served)
        await asyncio.to_thread(world.spent.look, served.pid, learner.pid)
        if not people.asks_frozen and (frozen := learner.last.get("frozen")):
            await asyncio.to_thread(served.follow, world.shown["model"], {FROZEN: frozen})
            people.asks_frozen = FROZEN in world.shown.get("slots", {})
        now = time.monotonic()
        told, shown = learner.last, world.shown.get("card", {}).get("live", {})
        fresh, rows = people.scores.settle(), told.get("rows", 0)
        latencies = list(people.latencies)
        people.latencies.clear()
        world.run.metric(
            "live", t=round(now - begun, 2), event_time=people.now_us // 1_000_000, events=people.sent,
            events_per_s=round((people.sent - before) / (now - at)), rows_per_s=round(max(rows - rows_before, 0) / (now - at)),
            lag_s=round(people.lag_s, 3), asked=people.scores.count(), window=fresh,
            recall_at_10=people.scores.mean("recall_at_10"), ndcg_at_10=people.scores.mean("ndcg_at_10"),
            freshness=shown.get("freshness_s"), served=shown, learner=told, restarts=learner.restarts, cpu_s=world.spent.told(),
            cold_s=[round(each, 3) for each in people.cold_s[-20:]],
            p99_ms=round(1e3 * float(np.quantile(latencies, 0.99)), 3) if latencies else None,
        )  # fmt: skip
        before, rows_before, at = people.sent, rows, now
        meter.update(people.sent, recall=people.scores.mean("recall_at_10")["looped"])


def _described(served: ServedModel) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        asked = urllib.request.Request(f"{served.url}/v1/model", headers=dict(each.split(": ", 1) for each in served.headers))
        with opener.open(asked, timeout=10) as answer:
            told: dict[str, Any] = msgspec.json.decode(answer.read())
    except OSError as error:
        raise ServeError("the server does not say how it is", why=str(error)) from None
    return told


def _wait_visible(served: ServedModel, version: int) -> dict[str, Any]:
    """What the server tells once it shows the last version."""
    until = time.monotonic() + VISIBLE_TIMEOUT_S
    while (told := _described(served))["card"]["live"]["version"] < version:
        if time.monotonic() > until:
            why = told["card"]["live"]["trouble"] or f"it shows version {told['card']['live']['version']}"
            raise ServeError(f"version {version} is not served after {VISIBLE_TIMEOUT_S:g} s", why=why)
        time.sleep(0.02)
    return told


def _summary(world: Live, people: Population, told: dict[str, Any], _: float) -> dict[str, Any]:
    people.scores.settle()
    world.spent.said("learner", told["cpu_s"])
    shown = world.shown["card"]["live"]
    cold = people.cold_s
    return {
        "events": world.num_events,
        "visits": len(world.visits),
        "asked": people.scores.count(),
        "learned": told["learned"],
        "freshness_s": {name: shown["freshness_s"][name] for name in ("p50", "p99", "max")},
        "staleness": told["staleness"],
        "recall_at_10": people.scores.mean("recall_at_10"),
        "ndcg_at_10": people.scores.mean("ndcg_at_10"),
        "rows_per_s": round(told["rows"] / max(told["up_s"], 1e-9)),
        "cold_start_s": {
            "asked": len(cold) + people.cold_missed,
            "missed": people.cold_missed,
            "p50": round(float(np.quantile(cold, 0.5)), 3) if cold else None,
            "max": round(max(cold), 3) if cold else None,
        },
        "lag_s": {"max": round(people.worst_lag_s, 3)},
        "dropped": told["dropped"],
        "refused": told["refused"],
        "went_back": told["went_back"],
        "published": told["published"],
        "cpu_s": world.spent.told(),
    }
