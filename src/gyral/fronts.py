"""What listens: rooms put together behind one port. Which rooms a server has is decided here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gyral.config import Config
from gyral.config.sections import Collect, Serve
from gyral.dash.app import app as pages
from gyral.errors import ConfigError, Interrupted, UsageError
from gyral.http.operations import Documented
from gyral.ingest import described
from gyral.ingest import listen as ingest
from gyral.keys import FILE_NAME, LOOP, read_keys
from gyral.lake.table import Lake
from gyral.log.opening import open_log
from gyral.memory import few_arenas
from gyral.model import card as cards
from gyral.run import Run
from gyral.serve import said, server
from gyral.serve.entrance import Entrance, is_of_this_machine
from gyral.serve.packaged import is_source
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
    NotFound : there is no such model.  Interrupted : it was stopped by a signal.
    """

    def on_ready(url: str) -> None:
        run.summarize(url=url)
        ready({"url": url, "pid": os.getpid()}, f"{model} answers at {url}; pages at {url}/")

    if not is_source(model):
        cards.find(root, model)  # a name that is misspelt makes no log
    few_arenas()
    entrance = Entrance.of(root, config.listen, config.serve.host, run.note, is_child=is_child)
    config = _with_keys(root, config)
    if not is_child:
        _not_a_loops(config)
        _closed(config, config.serve.host, entrance, {"ask": config.serve, "send": config.collect, "see the pages": None})
    events = [*described.operations(), *map(said.operation, described.operations())]
    run.reads("model", model)
    lake = Lake.of(root, config)
    with ingest.collecting(root, config, run, drains="never" if is_child else "once used") as collector:
        mounts: dict[str, AsgiApp] = {
            "/": pages(root, lake.overview),
            collector.path: collector,
            FeedbackRoute.path: FeedbackRoute(collector, collector.path, config.serve.max_body_bytes),
        }
        told = server.serve(
            root, model, config.serve, lake, rerank=config.rerank, decode=config.decode, mounts=mounts, described=events,
            on_ready=on_ready, note=run.note, folder=run.folder / "workers", on=config.on,
            record=lambda line: run.metric("serving", **line), entrance=entrance,
            log=open_log(lake.log_folder, config) if config.serve.impressions and config.ingest.log else None,
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
    few_arenas()
    config = _with_keys(root, config)
    _not_a_loops(config)
    entrance = Entrance.of(root, config.listen, host, run.note)
    _closed(config, host, entrance, {"send": config.collect})

    def on_ready(url: str) -> None:
        run.summarize(url=url)
        ready({"url": url, "pid": os.getpid()}, f"POST events to {url}/v1/events (Ctrl-C stops)")

    told = Documented("gyral ingest --listen", described.operations)
    summary = ingest.listen(root, config, run, lambda app: server.serve_app(told.before(app), host, port, on_ready, entrance))
    if summary["was_interrupted"]:
        raise Interrupted(f"stopped after {summary['accepted']:,} events")


def dash(root: Path, config: Config, ready: Ready) -> None:
    """Show the pages until stopped.

    Raises
    ------
    Interrupted : it was stopped by a signal.
    """

    def on_ready(url: str) -> None:
        ready({"url": url}, f"pages at {url}/ (Ctrl-C stops)")

    host, port = config.dash.host, config.dash.port
    entrance = Entrance.of(root, config.listen, host, print)
    _closed(config, host, entrance, {"see the pages": None})
    if server.serve_app(pages(root, Lake.of(root, config).overview), host, port, on_ready, entrance):
        raise Interrupted("stopped")


def _with_keys(root: Path, config: Config) -> Config:
    """With the keys of the project's `keys.toml`, where no other file is set; one that is not there yet is waited for.

    Raises
    ------
    ConfigError : a file that is set is not there, which would let everybody in.
    """
    file = root / FILE_NAME
    for each in filter(None, (config.serve.keys_file, config.collect.keys_file)):
        read_keys(Path(each))
    replace = msgspec.structs.replace
    serve = replace(config.serve, keys_file=config.serve.keys_file or str(file))
    return replace(config, serve=serve, collect=replace(config.collect, keys_file=config.collect.keys_file or str(file)))


def _not_a_loops(config: Config) -> None:
    """Refuse the name of a loop's own key, which is no reason to want keys of others.

    Raises
    ------
    ConfigError : somebody has it.
    """
    for part, keys in (("serve", config.serve.keys), ("collect", config.collect.keys)):
        if any(each.name == LOOP for each in keys):
            raise ConfigError(f"`{LOOP}` is the name of a loop's own key", where=f"{part}.keys", hint="choose another name")


def _closed(config: Config, host: str, entrance: Entrance, open_to: Mapping[str, Serve | Collect | None]) -> None:
    """Refuse to listen beyond this machine where something wants no key.

    Raises
    ------
    UsageError : anybody could do something, and `listen.open` does not say that they may.
    """
    if config.listen.open or is_of_this_machine(host):
        return
    may = [
        what
        for what, part in open_to.items()
        if (not (part.keys or Path(part.keys_file).is_file()) if part is not None else not entrance.wants_keys)
    ]
    if may:
        hint = "make keys: `gyral keys add NAME --may ask` (or send, see); or say `--set listen.open=true`"
        raise UsageError(f"whoever reaches {host} could {' and '.join(may)} without a key", hint=hint)
