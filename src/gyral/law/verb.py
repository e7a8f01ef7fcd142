"""What `gyral law` does, as functions that give plain values, and how a person reads them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gyral.errors import InputError, NotFound
from gyral.law import intervals, methods, register
from gyral.law.allocate import Allocation, Budget, allocate
from gyral.law.choose import Law, choose
from gyral.law.fit import Loss
from gyral.law.kept import chart_of, write
from gyral.law.mixture_allocate import worth_of
from gyral.law.places import laws_of, register_of, runs_of
from gyral.law.runs import RunTable, append, check, load, read, table_of
from gyral.law.sweep import Stop, stops


def fit(
    path: Path, *, form: str = "auto", loss: Loss | None = None, num_bootstrap: int = 4_000,
    names: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None, group: str = "", target: Mapping[str, float] | None = None, seed: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """Fit a table, or each of its groups.

    Parameters
    ----------
    num_bootstrap : 0: no intervals.
    group : column whose values are fitted apart; empty: all rows together.

    Raises
    ------
    InputError : the table cannot be fitted; what, and what to do.
    """
    found = []
    for value, table in _groups(path, names or {}, where or {}, group):
        found.append(_fitted(table, form, loss or Loss(), num_bootstrap, target, seed) | ({"group": value} if group else {}))
    return found


def fit_own(root: Path, **options: Any) -> list[dict[str, Any]]:
    """Fit this project's own runs, group by group, and keep what the page of scaling draws.

    A group that cannot be fitted yet says why, and the others are fitted.

    Raises
    ------
    InputError : no run is in the table.
    """
    path = runs_of(root)
    if not path.exists():
        hint = "`gyral train` adds a row for each neural model; `gyral law import FILE` brings others"
        raise InputError("there are no runs here to fit", where=str(path), hint=hint)
    loss, num, form = options.get("loss") or Loss(), options.get("num_bootstrap", 4_000), options.get("form", "auto")
    seed, target = options.get("seed", 0), options.get("target")
    found: list[dict[str, Any]] = []
    charts: list[dict[str, Any]] = []
    whole = load(path)
    names = options.get("names") or {}
    values = whole["group"].to_pylist() if "group" in whole.column_names else [None] * whole.num_rows
    for value in dict.fromkeys(values):
        title = "" if value is None else str(value)
        try:
            rows = whole.filter(pa.array([each == value for each in values]))
            table = table_of(rows, names, f"{path}, {title}", options.get("where"))
            law = choose(table, form, loss)
            told = _of_law(law, num, target, seed) | {"group": title}
            charts.append(told | chart_of(law, min(num, 400) or 100))
        except InputError as error:
            told = {"group": title, "refused": error.what, "why": error.why, "hint": error.hint}
            charts.append(told)
        found.append(told)
    write(laws_of(root), charts)
    return found


def _groups(path: Path, names: Mapping[str, str], where: Mapping[str, str], group: str) -> list[tuple[str, RunTable]]:
    if not group:
        return [("", read(path, names, where))]
    table = load(path)
    if group not in table.column_names:
        raise InputError(f"there is no column `{group}`", where=str(path), hint=f"it has {', '.join(table.column_names[:12])}")
    values = list(dict.fromkeys(str(each) for each in table[group].to_pylist()))
    return [(value, table_of(table, names, f"{path}, {group} = {value}", {**where, group: value})) for value in values]


def _fitted(table: RunTable, form: str, loss: Loss, num: int, target: Mapping[str, float] | None, seed: int) -> dict[str, Any]:
    start = time.perf_counter()
    told = _of_law(choose(table, form, loss), num, target, seed)
    return told | {"runtime_s": time.perf_counter() - start}


def _of_law(law: Law, num: int, target: Mapping[str, float] | None, seed: int) -> dict[str, Any]:
    best, member, table = law.best, law.members[0], law.table
    ci: dict[str, Any] = {}
    width = None
    if num:
        theta = intervals.bootstrap(best, member.rows, table.run, num, seed)
        ci = intervals.of_parameters(best, theta)
        width = intervals.width_of_size(best, theta)
    asked = {name: np.array([value]) for name, value in (target or {}).items()} or None
    warnings = [*table.notes, *(each.told for each in stops(law, asked, width))]
    result: dict[str, Any] = {
        "form": best.form.name,
        "parameters": {
            name: {"value": value, "ci95": list(ci[name]) if name in ci else None, "at_bound": name in best.at_bound}
            for name, value in best.parameters.items()
        },
        "objective": best.objective,
        "n": best.num_rows,
        "optima": [
            {
                "objective": each.objective,
                "parameters": dict(zip(best.form.names, map(float, best.form.told(each.theta)), strict=True)),
            }
            for each in best.optima
        ],
        "identified": best.is_identified,
        "condition": best.condition,
        "members": [
            {"form": each.fitted.form.name, "omega": each.omega, "weight": each.weight, "foretelling_error": each.error}
            for each in law.members
        ],
        "warnings": warnings,
    }
    if asked is not None:
        result["predicted"] = _told(law, asked, law.sample(asked, num or 400, seed)[:, 0])
    return result


def _told(law: Law, asked: Mapping[str, np.ndarray], draws: np.ndarray) -> dict[str, Any]:
    ranges = {f"{level:g}": list(intervals.percentiles(draws, level)) for level in register.LEVELS}
    return {
        "target": {name: float(value[0]) for name, value in asked.items()},
        "loss": float(law.predict(asked)[0]),
        "intervals": ranges,
    }


def divide(
    path: Path, budget: Budget, *, form: str = "auto", loss: Loss | None = None, names: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None, num_bootstrap: int = 800, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """What to train with a budget, by each of the methods that this table allows.

    Raises
    ------
    InputError : the table cannot be fitted, or the budget buys no model.
    """
    table = read(path, names, where)
    worth, untold = worth_of(table)
    if untold is not None and budget.unique_by:
        raise InputError(f"how much there is of each domain cannot be used: {untold.what}", where=str(path), hint=untold.next)
    law = choose(table if worth is None else worth.told, form, loss)
    found: Allocation = allocate(law, budget, worth, num=max(num_bootstrap, 40), seed=seed)
    if untold is not None:
        found = found._replace(stops=(*found.stops, untold))
    rules: dict[str, dict[str, Any]] = {}
    for name, rule in (("envelope", methods.envelope), ("isoflop", methods.isoflop)):
        try:
            told = rule(law.table)
        except InputError as error:
            rules[name] = {"refused": error.what, "why": error.why}
            continue
        rules[name] = {"N": told.size(budget.flops), "exponent": told.exponent, "budgets": told.points}
    rules["parametric"] = {"N": found.N if found.is_point else None, "by_form": found.by_form}
    return {"budget": budget._asdict(), **found.as_json(), "methods": rules, "warnings": list(law.table.notes)}


def predict(
    root: Path, path: Path, target: Mapping[str, float], *, name: str = "", form: str = "auto", loss: Loss | None = None,
    names: Mapping[str, str] | None = None, where: Mapping[str, str] | None = None, num_bootstrap: int = 4_000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """What a run will end with; written down first where it has a `name`.

    Raises
    ------
    InputError : the table cannot be fitted, the target lacks a column, or the register was changed.
    """
    law = choose(read(path, names, where), form, loss)
    asked = {column: np.array([value]) for column, value in target.items()}
    draws = law.sample(asked, max(num_bootstrap, 400), seed)[:, 0]
    told = _told(law, asked, draws)
    told["stops"] = [each._asdict() for each in stops(law, asked)]
    if name:
        entry = register.register(register_of(root), name, target, draws, described(law, path))
        told |= {"registered": name, "number": entry["number"], "hash": entry["hash"]}
    return told


def described(law: Law, path: Path) -> dict[str, Any]:
    """Where a prediction is from."""
    from gyral import __version__

    members = [{"form": each.fitted.form.name, "omega": each.omega, "weight": each.weight} for each in law.members]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"members": members, "table": path.name, "table_sha256": digest, "rows": len(law.table), "version": __version__}


def bring(root: Path, path: Path, names: Mapping[str, str], set_to: Mapping[str, str]) -> dict[str, Any]:
    """Add the rows of a file to the project's table of runs.

    Parameters
    ----------
    set_to : column → value that all its rows have.

    Raises
    ------
    InputError : a row cannot be used, or all are too few for a law, with those that are there; nothing is added.
    """
    table, target = load(path), runs_of(root)
    new = read(path, names, least=1)  # refuses what could not be fitted
    check(len(new) + (load(target).num_rows if target.exists() else 0), str(path))
    renamed = {theirs: ours for ours, theirs in names.items()}
    known = set(renamed.values())
    rows = []
    for row in table.to_pylist():
        told = {renamed.get(column, column): value for column, value in row.items() if column in renamed or column not in known}
        rows.append({**told, **set_to})
    append(target, rows)
    return {"added": len(rows), "rows": load(target).num_rows, "table": str(target)}


def ended_with(root: Path, name: str) -> float:
    """Loss of the run of this name in the project's table.

    Raises
    ------
    NotFound : there is none.
    """
    path = runs_of(root)
    rows = load(path).to_pylist() if path.exists() else []
    found = [row["loss"] for row in rows if str(row.get("run")) == name]
    if not found:
        raise NotFound(f"no run `{name}` is in the table", where=str(path), hint="`--value LOSS` says what it ended with")
    return float(found[-1])


def pairs(texts: Sequence[str], what: str) -> dict[str, str]:
    """Read `NAME=VALUE`, several with commas between.

    Raises
    ------
    InputError : there is no `=`.
    """
    found = {}
    for text in texts:
        for each in text.split(","):
            name, equals, value = each.partition("=")
            if not equals or not name.strip() or not value.strip():
                raise InputError(f"`{each}` names nothing", hint=f"write {what}")
            found[name.strip()] = value.strip()
    return found


def numbers(texts: Sequence[str], what: str) -> dict[str, float]:
    """Read `NAME=NUMBER`.

    Raises
    ------
    InputError : it is none, or not positive.
    """
    found = {}
    for name, value in pairs(texts, what).items():
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = -1.0
        if not 0 < found[name] < float("inf"):
            raise InputError(f"`{name}={value}` is no positive number", hint=f"write {what}")
    return found


def law_text(told: Mapping[str, Any]) -> str:
    """A fitted law for a person."""
    if "refused" in told:
        return f"{told['group']}: {told['refused']}: {told['why']}\n\nhint: {told['hint']}"
    lines = [f"{told['form']} through {told['n']} runs" + (f", {told['group']}" if "group" in told else "")]
    for name, each in told["parameters"].items():
        ci = "" if each["ci95"] is None else f"   95 %: {each['ci95'][0]:.5g} to {each['ci95'][1]:.5g}"
        lines.append(f"  {name:<8} {each['value']:<12.6g}{ci}" + ("   at its bound" if each["at_bound"] else ""))
    lines.append(
        f"  objective {told['objective']:.8g}, optima {len(told['optima'])}, "
        + ("identified" if told["identified"] else "not identified")
    )
    for each in told["members"]:
        error = each["foretelling_error"]
        missed = "nothing could be held out" if error != error else f"missed what was held out by {error:.2%}"
        lines.append(f"  {each['weight']:>4.0%} {each['form']}, small runs by C^{each['omega']:g}: {missed}")
    if "predicted" in told:
        lines.append(prediction_text(told["predicted"]))
    return "\n".join([*lines, *(f"note: {each}" for each in told["warnings"])])


def prediction_text(told: Mapping[str, Any]) -> str:
    """A prediction for a person."""
    target = ", ".join(f"{name} = {value:.4g}" for name, value in told["target"].items())
    lines = [f"loss {told['loss']:.5g} at {target}"]
    lines += [f"  {float(level):.0%}: {low:.5g} to {high:.5g}" for level, (low, high) in told["intervals"].items()]
    if "registered" in told:
        lines.append(f"  registered as `{told['registered']}`, line {told['number']}, hash {told['hash'][:12]}")
    return "\n".join([*lines, *(f"note: {Stop(**each).told}" for each in told.get("stops", ()))])


def allocation_text(told: Mapping[str, Any]) -> str:
    """An allocation for a person."""
    low, high = told["N_80"]
    if told["N"] is None:
        head = f"no point can be told: N lies between {low:.3g} and {high:.3g} (80 %)"
    else:
        head = f"N = {told['N']:.4g}, D = {told['D']:.4g} ({told['D'] / told['N']:.3g} a parameter), "
        head += f"{told['epochs']:.3g} epochs, {told['bits']} bits"
    lines = [head, f"  loss {told['loss']:.5g}, 80 %: {told['loss_80'][0]:.5g} to {told['loss_80'][1]:.5g}"]
    lines += [
        f"  within {float(share):.1%} of that loss: N from {low:.3g} to {high:.3g}"
        for share, (low, high) in told["flat"].items()
    ]
    lines.append(f"  80 % of what bootstraps and forms say: N from {low:.3g} to {high:.3g}")
    if "weights_80" in told:
        lines += _mixture_lines(told)
    lines.append("  by form: " + ", ".join(f"{name} {size:.3g}" for name, size in told["by_form"].items()))
    for name, each in told["methods"].items():
        if each.get("N"):
            lines.append(f"  {name}: N = {each['N']:.3g}")
        elif "refused" in each:
            lines.append(f"  {name}: {each['refused']} ({each['why']})")
    if told["usd"] is not None:
        lines.append(f"  {told['usd']:,.0f} usd")
    notes = [Stop(**each).told for each in told["stops"]]
    return "\n".join([*lines, *(f"note: {each}" for each in [*told["notes"], *notes])])


def _mixture_lines(told: Mapping[str, Any]) -> list[str]:
    share = next(iter(told["weights_flat"]))
    lines = []
    for name, (low, high) in told["weights_80"].items():
        known = f"{told['weights'][name]:.3f}, {told['epochs_by_domain'][name]:.3g} epochs" if told["weights"] else "unknown"
        least, most = told["weights_flat"][share][name]
        lines.append(
            f"  weight of {name}: {known}, 80 %: {low:.3f} to {high:.3f}; within {float(share):.1%}: {least:.3f} to {most:.3f}"
        )
    return lines


def unique(texts: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Read `--unique`: tokens there are, or `web=25e9,code=3e9`.

    Raises
    ------
    InputError : it is neither, or both.
    """
    hint = "`--unique 25e9`, or `--unique web=25e9,code=3e9`"
    if all("=" in text for text in texts):
        return float("inf"), numbers(texts, hint)
    value = numbers([f"unique={texts[0]}"], hint)["unique"] if len(texts) == 1 else -1.0
    if value < 0:
        raise InputError(f"`{texts[0]}` and `{texts[1]}` say it twice", hint=hint)
    return value, {}


def score_text(told: Mapping[str, Any]) -> str:
    """The score card for a person."""
    if not told["verdicts"]:
        return "no prediction has its verdict yet"
    inside = ", ".join(f"{float(level):.0%}: {share:.0%}" for level, share in told["inside"].items())
    head = f"{told['verdicts']} verdicts: off by {told['mean_abs_error']:.2%} on average"
    return f"{head}; inside their intervals {inside}; CRPS {told['crps']:.4g}"
