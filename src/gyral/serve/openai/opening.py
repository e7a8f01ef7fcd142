"""Copies of a language model in worker processes, for as long as a server answers with them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from gyral.config.sections import Decode, Serve
from gyral.engine.base import num_cores
from gyral.errors import ConfigError
from gyral.serve.following import Following
from gyral.serve.job import Job
from gyral.serve.openai.copies import Copies
from gyral.serve.openai.copy import COPY
from gyral.serve.openai.upstream import SCHEME
from gyral.serve.opening import newest
from gyral.serve.packaged import is_source, located
from gyral.serve.pool import Settings
from gyral.serve.pooled import pooled

START_S = 600.0
"""For a worker to be ready: a large model is read from a disk first."""


@contextlib.asynccontextmanager
async def copied(
    root: Path, model: str, config: Serve, decode: Decode, note: Callable[[str], None], *, folder: Path | None = None,
    on: str = "local",
) -> AsyncIterator[Copies]:  # fmt: skip
    """Copies that are ready; they follow the newest version until the block ends.

    Raises
    ------
    ConfigError : a setting that copies do not have.  NotFound : there is no such model.
    ServeError : no version of it can be loaded.
    """
    _check(model, config)
    settings = Settings(
        workers=config.workers, start_s=START_S, window=2 * (decode.running + decode.waiting),
        max_waiting=min(config.max_waiting, config.workers * decode.waiting), hang_s=config.hang_s,
    )  # fmt: skip
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, num_cores() // config.workers))
    job = Job(
        source=str(root.absolute()), version="package", engine=COPY, options={"decode": msgspec.to_builtins(decode)},
        environment={"OMP_NUM_THREADS": threads} if on == "local" else _cache(),
    )  # fmt: skip
    async with contextlib.AsyncExitStack() as stack:
        if is_source(model):
            path, name = await asyncio.to_thread(located, model, note)
            source = str(path.absolute()) if Path(model).exists() else model
            job = msgspec.structs.replace(job, options={**job.options, "package": source})
            pool = await stack.enter_async_context(pooled(job, settings, folder, on=on, note=note))
            copies = Copies(pool, None, name, note)
        else:
            following = Following(root, model, (), note)
            pool = await newest(stack, following, job, settings, folder, on=on, note=note)
            copies = Copies(pool, following, note=note)
        await copies.learn()
        note(f"serve    {' '.join(copies.names().values())} answers, by {config.workers} workers")
        task = asyncio.create_task(copies.follow())
        try:
            yield copies
        finally:
            task.cancel()
            await asyncio.wait([task])


def _cache() -> dict[str, str]:
    """Where workers elsewhere find packages that were fetched: each machine has a cache of its own, unless one was named."""
    return {"GYRAL_CACHE": str(Path(given).absolute())} if (given := os.environ.get("GYRAL_CACHE")) else {}


def _check(model: str, config: Serve) -> None:
    """Refuse what is not done, rather than passing over it."""
    if model.startswith(SCHEME):
        what, why = "another server's model has no copies here", f"`{model}` is answered over there"
        raise ConfigError(what, why=why, where="serve.workers", hint="leave it at 0")
    wrong = {
        "max_workers": config.max_workers > config.workers, "variants": bool(config.variants), "canary": bool(config.canary),
    }  # fmt: skip
    for name in [name for name, is_set in wrong.items() if is_set]:
        why = "copies of a language model are as many as `serve.workers` says, and all of one version"
        raise ConfigError(
            f"`serve.{name}` does not go with a language model", why=why, where=f"serve.{name}", hint="leave it out"
        )
