"""The command line of tools that measure and make no noun."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from gyral.console import common, configure, plain, print_result, start_run
from gyral.usage import Command, Commands


@click.group(cls=Commands)
def bench() -> None:
    """Put a load on what runs here, and say what it did."""


@bench.command()
@click.argument("url", required=False)
@click.option("--route", help="recommend, chat, completions, search, embed, bodies; replay: logged traffic.")
@click.option("--rate", type=float, metavar="PER_S", help="Requests a second, on average.")
@click.option("--seconds", type=float, help="How long requests are due.")
@click.option("--arrivals", help="poisson, constant, bursts, day; ramp: raise the rate until it is not held.")
@click.option("--bodies", metavar="FILE", help="A JSON body a line, sent to `--path`.")
@click.option("--path", help="Path that is asked, if not the route's own.")
@click.option("--speed", type=float, metavar="TIMES", help="With `--route replay`: as many times as fast as it came.")
@click.option("--users", type=int, help="Subjects or prompts that are asked for, by Zipf's law.")
@click.option("--zipf", type=float, metavar="EXPONENT", help="How unequally often; 0: all alike.")
@click.option("--model", help="Model that requests name.")
@click.option("--max-tokens", type=int, help="Of an answer.")
@click.option("--stream", is_flag=True, default=None, help="Answers as server-sent events, each token timed.")
@click.option("--devices", metavar="MIX", help="Tiers: phone:.6,laptop:.4.")
@click.option("--deadlines", metavar="MIX", help="`x-deadline-ms`: 50ms:.8,500ms:.2; goodput counts them.")
@click.option("--connections", type=int, help="Open at once at most.")
@click.option("--timeout-s", type=float, help="From the moment a request is due.")
@click.option("--pid", type=int, help="The server's process, for its CPU time.")
@click.option("--usd-per-core-hour", type=float, help="Price of a core, for the cost of 1,000 answers.")
@click.option("--key-env", metavar="NAME", help="Environment variable that holds the server's key.")
@click.option("--seed", type=int, help="Of arrivals and of what is asked for.")
@common
def serve(root: Path, sets: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Load the server at URL, or the one of this project, and count latency from when each request was due."""
    config = configure(root, sets, {f"bench.{name}": value for name, value in flags.items()})
    from gyral.bench.serve import serve as run_serve
    from gyral.bench.table import table_of

    with start_run(root, "bench", config, as_json, seed=config.bench.seed) as run:
        told = run_serve(root, config, run)
    print_result(as_json, told, lambda: f"{table_of(told)}\n\nrun {run.number}")


@bench.command()
@click.argument("pairs", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--url", help="Server of a language model, if not the one of this project.")
@click.option("--model", help="Model that requests name.")
@click.option(
    "--max-error", type=click.FloatRange(0, 1, min_open=True), default=0.01, show_default=True, help="Of answers told."
)
@click.option("--key-env", metavar="NAME", help="Environment variable that holds the server's key.")
@common
def alike(root: Path, sets: tuple[str, ...], as_json: bool, pairs: Path, max_error: float, **flags: Any) -> None:
    """From PAIRS of questions, find `serve.alike`: how like one must be to another to be told its answer."""
    config = configure(root, sets, {f"bench.{name}": flags[name] for name in ("url", "model", "key_env")})
    from gyral.bench.alike import alike as run_alike

    told = run_alike(root, config.bench, pairs, max_error)

    def shown() -> str:
        same = f"{told['same_above']:.0%} of the same questions are above it, and {told['wrong_above']} of others"
        return f"serve.alike = {told['threshold']:.5f}: {same} ({told['pairs']:,} pairs)"

    print_result(as_json, told, shown)


@click.command(cls=Command)
@click.option("--probe", "probes", is_flag=True, help="Also measure this machine for plans, in about half a minute.")
@common
def doctor(root: Path, sets: tuple[str, ...], as_json: bool, probes: bool, **_: Any) -> None:
    """Check this machine and this project, and say what to mend."""
    from gyral.doctor import examine, measure, table_of

    findings = examine(root)
    if probes:
        findings += measure(root, lambda what: click.echo(f"measuring {what}", err=True))
    print_result(as_json, {"findings": [plain(each) for each in findings]}, lambda: table_of(findings))
    if any(each.state == "bad" for each in findings):
        sys.exit(1)


@click.command(name="eval", cls=Command)
@click.argument("model")
@click.option("--dataset", metavar="NAME", required=True, help="What is later here than the model learned is the test.")
@common
def evaluate(root: Path, sets: tuple[str, ...], as_json: bool, model: str, dataset: str, **_: Any) -> None:
    """Score MODEL by full ranking on what came after it learned."""
    config = configure(root, sets, {})
    from gyral.model.evaluate import evaluate as run_evaluate

    with start_run(root, "eval", config, as_json) as run:
        result = run_evaluate(root, model, dataset, run)
    from gyral.show import eval_table

    print_result(as_json, result, lambda: eval_table(result))


@click.group(cls=Commands)
def new() -> None:
    """Write a package to begin with, that installs and runs as it is."""


@new.command()
@click.argument("name")
@click.argument("folder", required=False, type=click.Path(path_type=Path), metavar="[DIR]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def plugin(name: str, folder: Path | None, as_json: bool) -> None:
    """Write the plug-in NAME into DIR, by default ./gyral-NAME: a source, a curate step, a family, a page, and a test."""
    from gyral.new.plugin import check
    from gyral.new.plugin import plugin as write

    check(name)
    folder = folder or Path(f"gyral-{name.replace('_', '-')}")
    files = write(name, folder)
    listed = "\n".join(f"  {each}" for each in files)
    text = f"{folder}\n{listed}\n\nnext: pip install -e {folder} && gyral ingest --source {name}:2000"
    print_result(as_json, {"folder": str(folder), "files": [str(each) for each in files]}, lambda: text)
