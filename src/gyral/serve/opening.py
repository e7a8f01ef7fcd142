"""A front with its workers, for as long as it serves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gyral.config.rerank import Rerank
from gyral.config.sections import Serve
from gyral.errors import GyralError, ServeError
from gyral.http import AsgiApp
from gyral.model.tiers import tiers
from gyral.serve.feedback import Impressions
from gyral.serve.following import Following
from gyral.serve.front import Front
from gyral.serve.gateway import Gateway
from gyral.serve.job import Job, in_set
from gyral.serve.metrics import Metrics
from gyral.serve.pool import Pool, Settings
from gyral.serve.pooled import pooled
from gyral.serve.said import FeedbackRoute
from gyral.serve.scaling import Scaler


async def newest(
    stack: contextlib.AsyncExitStack, following: Following, job: Job, settings: Settings, folder: Path | None, **options: Any
) -> Pool:
    """A pool of the newest set of versions that can be loaded, open as long as the stack; `options` as of `pooled`.

    Raises
    ------
    ServeError : there is none.
    """
    last: GyralError | None = None
    for version in following.sets():
        opening = pooled(msgspec.structs.replace(job, version=version), settings, folder, **options)
        try:
            return await stack.enter_async_context(opening)
        except ServeError as error:
            following.refuse(version, error)
            last = error
    raise last or ServeError("no version can be served")


@contextlib.asynccontextmanager
async def opened(
    root: Path, model: str, config: Serve, rerank: Rerank, impressions: Impressions | None, mounts: Mapping[str, AsgiApp],
    note: Callable[[str], None], *, folder: Path | None = None, on: str = "local",
) -> AsyncIterator[Front]:  # fmt: skip
    """A front with workers that are ready; they follow the newest versions until the block ends.

    Raises
    ------
    NotFound : there is no such model.  ServeError : no version of it can be loaded.
    """
    following = Following(root, model, config.variants, note, config.canary)
    room: list[Gateway] = []
    options = {"max_batch": config.max_batch, "max_k": config.max_k, "rerank": msgspec.to_builtins(rerank)}
    settings = Settings(workers=config.workers, max_waiting=config.max_waiting, hang_s=config.hang_s)
    async with contextlib.AsyncExitStack() as stack:
        job = Job(source=str(root.absolute()), version="", options=options)
        more = {"on": on, "note": note, "on_room": lambda: room[0].pump() if room else None}
        pool = await newest(stack, following, job, settings, folder, **more)
        slots = following.slots(pool.versions.current)
        front_metrics: list[Metrics] = []
        gateway = Gateway(
            pool, slots, tiers(config.tiers), max_waiting=config.max_waiting, max_batch=config.max_batch,
            on_batch=lambda *batch: front_metrics[0].batch(*batch) if front_metrics else None,
            cascade=config.cascade,
        )  # fmt: skip
        room.append(gateway)
        front = Front(pool, gateway, following, config, impressions, mounts, note)
        front_metrics.append(front.metrics)
        await front.learn()
        note(f"serve    {' '.join(in_set(pool.versions.current).values())} answers, by {config.workers} workers")
        for each in mounts.values():
            if isinstance(each, FeedbackRoute):
                each.on_said = front.said
        scaler = Scaler(pool, gateway, config.workers, config.max_workers, note)
        tasks = [asyncio.create_task(front.follow()), asyncio.create_task(scaler.keep())]
        try:
            yield front
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            gateway.close()
            front.close()
