"""A pool for as long as a block lasts, its workers here or placed by Ray."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gyral.errors import GyralError
from gyral.serve.job import Job
from gyral.serve.pool import Pool, Settings


@contextlib.asynccontextmanager
async def pooled(
    job: Job, settings: Settings | None = None, folder: Path | None = None, *, on: str = "local", **options: Any
) -> AsyncIterator[Pool]:
    """A pool that is ready, closed at the end of the block.

    Parameters
    ----------
    on : `local`, or as `--on`: `ray://…` has Ray place the workers, which then need a `folder` that all machines see.
    """
    with contextlib.ExitStack() as placed:
        if on.partition("://")[0] == "ray":
            from gyral.engine.ray_ranks import placing

            folder = folder.resolve() if folder else None  # workers may be elsewhere
            options["start"], options["host"] = placed.enter_context(placing(on, options.get("note", print)))
        pool = Pool(job, settings, folder, **options)
        await pool.start()
        try:
            yield pool
        finally:
            with contextlib.suppress(GyralError):
                await pool.close()
