"""What listens: rooms put together behind one port. Which rooms a server has is decided here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gyral.config import Config
from gyral.dash.app import app as pages
from gyral.errors import Interrupted
from gyral.ingest import listen as ingest
from gyral.lake.table import Lake
from gyral.run import Run
from gyral.serve import server
from gyral.serve.said import FeedbackRoute

if TYPE_CHECKING:
    from gyral.http import AsgiApp

Ready = Callable[[dict[str, Any], str], None]
"""Told once a front answers: where, and a line that says so to a person."""


def serve(root: Path, model: str, config: Config, run: Run, is_child: bool, ready: Ready) -> None:
    """Serve a model with the pages and the route that takes events, until stopped.

    Parameters
    ----------
    is_child : of a loop, which drains the log itself.

    Raises
    ------
    Interrupted : it was stopped by a signal.
    """

    def on_ready(url: str) -> None:
        run.summarize(url=url)
        ready({"url": url, "pid": os.getpid()}, f"{model} answers at {url}; pages at {url}/")

    run.reads("model", model)
    lake = Lake.of(root, config)
    with ingest.collecting(root, config, run, drains="never" if is_child else "once used") as collector:
        mounts: dict[str, AsgiApp] = {
            "/": pages(root, lake.overview),
            collector.path: collector,
            FeedbackRoute.path: FeedbackRoute(collector, collector.path, config.serve.max_body_bytes),
        }
        told = server.serve(
            root, model, config.serve, lake, rerank=config.rerank, mounts=mounts, on_ready=on_ready, note=run.note,
            folder=run.folder / "workers", on=config.on,
        )  # fmt: skip
    run.summarize(**told.counts)
    if told.was_interrupted:
        raise Interrupted(f"stopped after {told.counts['impressions']:,} logged answers")


def listen(root: Path, config: Config, run: Run, host: str, port: int, ready: Ready) -> None:
    """Take events until stopped.

    Raises
    ------
    Interrupted : it was stopped by a signal.
    """
    if host not in ("127.0.0.1", "localhost", "::1") and not config.collect.keys:
        run.note(f"anybody who reaches {host} can send: set `[[collect.keys]]`, or listen on 127.0.0.1")

    def on_ready(url: str) -> None:
        run.summarize(url=url)
        ready({"url": url, "pid": os.getpid()}, f"POST events to {url}/v1/events (Ctrl-C stops)")

    told = ingest.listen(root, config, run, lambda app: server.serve_app(app, host, port, on_ready))
    if told["was_interrupted"]:
        raise Interrupted(f"stopped after {told['accepted']:,} events")


def dash(root: Path, config: Config, ready: Ready) -> None:
    """Show the pages until stopped.

    Raises
    ------
    Interrupted : it was stopped by a signal.
    """

    def on_ready(url: str) -> None:
        ready({"url": url}, f"pages at {url}/ (Ctrl-C stops)")

    if server.serve_app(pages(root, Lake.of(root, config).overview), config.dash.host, config.dash.port, on_ready):
        raise Interrupted("stopped")
