"""The command line of scaling laws: `gyral law`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gyral.console import common, print_result
from gyral.usage import Commands

TARGET = "`N=7e9,D=1.4e11`, or `C=1e21`"
_FILE = click.Path(path_type=Path)


def _fitting(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            click.option(
                "--form", default="auto", show_default=True, help="One law, or several weighted by what they foretell."
            ),
            click.option(
                "--loss", "loss_text", default="huber:1e-3", show_default=True, help="huber:DELTA, lad, squared; :linear."
            ),
            click.option("--map", "mapping", multiple=True, metavar="OURS=THEIRS,…", help="N=params,D=tokens,loss=val_loss."),
            click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Only these rows: `kind=a|b`."),
            click.option("--seed", type=int, default=0, help="Of bootstraps."),
        ]
    ):
        command = option(command)
    return command


@click.group(cls=Commands)
def law() -> None:
    """Fit scaling laws to runs, divide a budget, predict a run before it is made."""


@law.command()
@click.argument("runs", type=_FILE, required=False)
@click.option(
    "--bootstrap", "num", type=click.IntRange(0, 1_000_000), default=4_000, show_default=True, help="0: no intervals."
)
@click.option("--group", default="", metavar="COLUMN", help="Fit the rows of each of its values apart.")
@click.option("--target", multiple=True, metavar="N=…,D=…", help="Say what a run of this size will end with.")
@_fitting
@common
def fit(
    root: Path, sets: tuple[str, ...], as_json: bool, runs: Path | None, form: str, loss_text: str, mapping: tuple[str, ...],
    where: tuple[str, ...], seed: int, num: int, group: str, target: tuple[str, ...],
) -> None:  # fmt: skip
    """Fit RUNS, a CSV or Parquet file with `N`, `D` and `loss`, or `C` and `loss`; default: this project's own runs."""
    from gyral.law import verb
    from gyral.law.fit import loss_of

    options: dict[str, Any] = {
        "form": form, "loss": loss_of(loss_text), "num_bootstrap": num, "names": verb.pairs(mapping, "N=params"),
        "where": verb.pairs(where, "COLUMN=VALUE"), "target": verb.numbers(target, TARGET), "seed": seed,
    }  # fmt: skip
    told = verb.fit(runs, group=group, **options) if runs else verb.fit_own(root, **options)
    data: Any = {"groups": told} if group or not runs else told[0]
    print_result(as_json, data, lambda: "\n\n".join(map(verb.law_text, told)))


@law.command()
@click.argument("runs", type=_FILE, required=False)
@click.option("--budget", required=True, metavar="AMOUNT", help="1e22flop, 500usd, 48h.")
@click.option("--serve-tokens", type=float, default=0.0, help="Tokens that the model will answer, paid from the same budget.")
@click.option("--unique", multiple=True, metavar="TOKENS", help="Tokens there are, or of domains: web=25e9,code=3e9.")
@click.option("--bits", multiple=True, type=click.Choice(["4", "8", "16"]), help="Precisions that may be trained in.")
@click.option("--usd-per-eflop", type=float, help="Price of 1e18 FLOPs.")
@click.option("--flops-per-s", type=float, help="What the machines do in a second.")
@_fitting
@common
def allocate(
    root: Path, sets: tuple[str, ...], as_json: bool, runs: Path | None, budget: str, serve_tokens: float,
    unique: tuple[str, ...], bits: tuple[str, ...], usd_per_eflop: float | None, flops_per_s: float | None, form: str,
    loss_text: str, mapping: tuple[str, ...], where: tuple[str, ...], seed: int,
) -> None:  # fmt: skip
    """Say how large a model to train, on how much and on what, with a budget."""
    from gyral.law import places, verb
    from gyral.law.allocate import Budget, flops_of
    from gyral.law.fit import loss_of

    flops = flops_of(budget, usd_per_eflop, flops_per_s)
    whole, by_domain = verb.unique(unique)
    spend = Budget(flops, serve_tokens, whole, tuple(int(each) for each in bits) or (16,), usd_per_eflop, by_domain or None)
    told = verb.divide(
        runs or places.runs_of(root), spend, form=form, loss=loss_of(loss_text), names=verb.pairs(mapping, "N=params"),
        where=verb.pairs(where, "COLUMN=VALUE"), seed=seed,
    )  # fmt: skip
    print_result(as_json, told, lambda: verb.allocation_text(told))


@law.command()
@click.argument("runs", type=_FILE, required=False)
@click.option("--target", multiple=True, required=True, metavar="N=…,D=…", help="The run that is meant.")
@click.option("--register", "name", default="", metavar="NAME", help="Write it down, chained to what was predicted before.")
@_fitting
@common
def predict(
    root: Path, sets: tuple[str, ...], as_json: bool, runs: Path | None, target: tuple[str, ...], name: str, form: str,
    loss_text: str, mapping: tuple[str, ...], where: tuple[str, ...], seed: int,
) -> None:  # fmt: skip
    """Say what a run will end with, before it is made."""
    from gyral.law import places, verb
    from gyral.law.fit import loss_of

    told = verb.predict(
        root, runs or places.runs_of(root), verb.numbers(target, TARGET), name=name, form=form, loss=loss_of(loss_text),
        names=verb.pairs(mapping, "N=params"), where=verb.pairs(where, "COLUMN=VALUE"), seed=seed,
    )  # fmt: skip
    print_result(as_json, told, lambda: verb.prediction_text(told))


@law.command()
@click.argument("name")
@click.option("--value", type=float, help="What it ended with; default: that of the run of this name in the table.")
@common
def verdict(root: Path, sets: tuple[str, ...], as_json: bool, name: str, value: float | None) -> None:
    """Hold what a run ended with against what was registered for NAME."""
    from gyral.law import places, register, verb

    value = verb.ended_with(root, name) if value is None else value
    told = register.verdict(places.register_of(root), name, value)
    score = register.scores(places.register_of(root))
    inside = ", ".join(f"{float(level):.0%} {'yes' if is_in else 'no'}" for level, is_in in told["inside"].items())
    text = f"{name} ended with {value:.5g}, {told['error']:+.2%} from what was predicted; inside {inside}"
    text += f"\n{verb.score_text(score)}"
    print_result(as_json, {**told, "score": score}, lambda: text)


@law.command(name="import")
@click.argument("file", type=_FILE)
@click.option("--map", "mapping", multiple=True, metavar="OURS=THEIRS,…", help="N=params,D=tokens,loss=val_loss.")
@click.option("--value", "values", multiple=True, metavar="COLUMN=VALUE", help="That all its rows have: `family=lm`.")
@common
def bring(
    root: Path, sets: tuple[str, ...], as_json: bool, file: Path, mapping: tuple[str, ...], values: tuple[str, ...]
) -> None:
    """Add the runs of FILE to this project's table."""
    from gyral.law import verb

    told = verb.bring(root, file, verb.pairs(mapping, "N=params"), verb.pairs(values, "COLUMN=VALUE"))
    print_result(as_json, told, lambda: f"{told['added']} runs added: {told['table']} has {told['rows']}")


@law.command()
@common
def score(root: Path, sets: tuple[str, ...], as_json: bool) -> None:
    """Say how good the predictions were that have their verdicts."""
    from gyral.law import places, register, verb

    told = register.scores(places.register_of(root))
    print_result(as_json, told, lambda: verb.score_text(told))


@law.command()
@click.argument("dataset")
@click.option("--family", help="Kind of model.")
@click.option("--budget", default="5m", show_default=True, help="Of all trainings together: 90s, 5m, 1h.")
@common
def sweep(root: Path, sets: tuple[str, ...], as_json: bool, dataset: str, **flags: Any) -> None:
    """Train small models of several sizes on DATASET, so that `gyral train --budget` has a law to choose by."""
    from gyral.config import budget_seconds, given
    from gyral.console import configure, start_run
    from gyral.train import sweep as sweeps

    config = configure(root, sets, flags)
    told = sweeps.sweep(
        root, dataset, config, budget_seconds(config.train.budget), given(root, sets),
        lambda one: start_run(root, "train", one, as_json, seed=one.train.seed),
    )  # fmt: skip
    print_result(as_json, {"runs": told}, lambda: f"{len(told)} runs added; `gyral law fit` fits them")


@law.command()
@click.argument("weights", type=_FILE)
@click.argument("losses", type=_FILE, required=False)
@click.option("--prefix", default="w:", show_default=True, help="What names of columns of weights begin with.")
@click.option("--target", multiple=True, metavar="COLUMN", help="Loss that counts; default: all columns of LOSSES, alike.")
@click.option("--cap", "caps", multiple=True, metavar="DOMAIN=SHARE", help="Most that a domain may have.")
@click.option("--least-entropy", type=float, default=0.0, help="Of the mixture, in nats: more is more even.")
@common
def mixture(
    root: Path, sets: tuple[str, ...], as_json: bool, weights: Path, losses: Path | None, prefix: str, target: tuple[str, ...],
    caps: tuple[str, ...], least_entropy: float,
) -> None:  # fmt: skip
    """Say which data to train on, from small runs on many mixtures: WEIGHTS, and LOSSES in the same file or their own."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: its threads wait for each other, 15 times as long
    from gyral.law import mixture_best, mixture_verb, verb

    found = mixture_verb.fit(mixture_verb.read(weights, losses, prefix=prefix, targets=target))
    best = mixture_best.best(found, caps=verb.numbers(caps, "`wikipedia=0.2`"), least_entropy=least_entropy)
    print_result(as_json, {**mixture_verb.as_json(found), **best.as_json()}, lambda: mixture_verb.text(found, best))


@law.command()
@click.argument("runs", type=_FILE, required=False)
@click.option("--target", multiple=True, metavar="N=…,D=…", help="Say the best rate and batch for this size.")
@click.option("--map", "mapping", multiple=True, metavar="OURS=THEIRS,…", help="lr=learning_rate,batch=batch_tokens.")
@common
def rates(
    root: Path, sets: tuple[str, ...], as_json: bool, runs: Path | None, target: tuple[str, ...], mapping: tuple[str, ...]
) -> None:
    """Say the best learning rate and batch by size and data, from sweeps of `lr` and `batch` at several."""
    from gyral.law import bowls, places, verb
    from gyral.law.runs import read

    found = bowls.fit(read(runs or places.runs_of(root), verb.pairs(mapping, "lr=learning_rate")))
    asked = verb.numbers(target, TARGET)
    laws = [each.as_json() for each in found.laws.values()]
    told: dict[str, Any] = {"laws": laws, "stops": [each._asdict() for each in found.stops]}
    if asked:
        best = {name: (each.value(**asked), each.interval(**asked)) for name, each in found.laws.items()}
        told["best"] = {name: {"value": value, "ci95": list(ci)} for name, (value, ci) in best.items()}
    print_result(as_json, told, lambda: bowls.text(found, asked))
