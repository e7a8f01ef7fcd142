"""Mixtures from files to an answer: which columns are weights, which are losses, and which rows belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gyral.errors import InputError, did_you_mean
from gyral.law import mixture, mixture_best
from gyral.law.mixture import MixtureLaw
from gyral.law.runs import DOMAIN, load

KEYS = ("run", "index", "id", "name")
"""Columns by which rows of two files belong together; the first that both have."""
LOSS = "loss"


class Mixtures(NamedTuple):
    """Rows of mixtures.

    Attributes
    ----------
    weights_nD, loss_nT : as in `mixture.fit`.
    """

    weights_nD: np.ndarray
    loss_nT: np.ndarray
    domains: tuple[str, ...]
    targets: tuple[str, ...]


def read(weights: Path, losses: Path | None = None, *, prefix: str = DOMAIN, targets: Sequence[str] = ()) -> Mixtures:
    """Read one file with weights and losses, or a file of each.

    Parameters
    ----------
    prefix : what names of columns of weights begin with; it is taken off.
    targets : columns of losses, by name or by what they begin with (`metric/*`); `loss`, or all other columns of numbers of a
        file of their own, where none is given.

    Raises
    ------
    InputError : a file or a column is missing, or rows do not belong together.
    """
    table = load(weights)
    domains = [name for name in table.column_names if name.startswith(prefix) and len(name) > len(prefix)]
    if not domains:
        hint = f"`--prefix` says what their names begin with; it has {', '.join(table.column_names[:8])}"
        raise InputError(f"no column of weights begins with `{prefix}`", where=str(weights), hint=hint)
    source = weights if losses is None else losses
    other = table if losses is None else load(losses)
    chosen = _targets(other, targets, [*domains, *KEYS], source, losses is not None)
    if losses is not None:
        table, other = _joined(table, other, weights, losses)
    shown = tuple(name.removeprefix(_common(chosen)) for name in chosen)
    return Mixtures(
        _matrix(table, domains, weights),
        _matrix(other, chosen, source),
        tuple(name.removeprefix(prefix) for name in domains),
        shown,
    )


def _targets(table: pa.Table, asked: Sequence[str], others: Sequence[str], source: Path, is_apart: bool) -> list[str]:
    known = [name for name in table.column_names if name not in others]
    found: list[str] = []
    for each in asked:
        several = [name for name in known if name.startswith(each[:-1])] if each.endswith("*") else [each]
        if not several or any(name not in known for name in several):
            hint = did_you_mean(each, known[:40])
            raise InputError(f"there is no column `{each}`", where=str(source), hint=hint)
        found += [name for name in several if name not in found]
    if not asked:
        numbers = [name for name in known if pa.types.is_floating(table.schema.field(name).type)]
        found = numbers if is_apart else [name for name in known if name == LOSS]
    if not found:
        hint = f"`--targets` names them; it has {', '.join(known[:8])}"
        raise InputError("there is no column of losses", where=str(source), hint=hint)
    return found


def _common(names: Sequence[str]) -> str:
    """A folder that all names begin with, `metric/`."""
    head = names[0].rpartition("/")[0]
    return f"{head}/" if head and all(name.startswith(f"{head}/") for name in names) else ""


def _joined(one: pa.Table, other: pa.Table, first: Path, second: Path) -> tuple[pa.Table, pa.Table]:
    """Rows of both in one order: by the key that both have, else as they stand."""
    key = next((name for name in KEYS if name in one.column_names and name in other.column_names), None)
    if key is None:
        if one.num_rows != other.num_rows:
            why = f"{one.num_rows} rows and {other.num_rows}, and no column of {', '.join(KEYS)} in both"
            raise InputError(
                "weights and losses do not belong together", where=f"{first}, {second}", why=why, hint="one row a run in both"
            )
        return one, other
    left, right = (table[key].to_pylist() for table in (one, other))
    place = {value: i for i, value in enumerate(right)}
    if len(place) < len(right) or len(set(left)) < len(left):
        raise InputError(f"`{key}` names a row twice", where=f"{first}, {second}", hint="one row a run")
    missing = [value for value in left if value not in place] or [value for value in right if value not in set(left)]
    if missing:
        why = f"`{key}` {missing[0]} is in one of them only, as are {len(missing) - 1} others"
        raise InputError(
            "weights and losses do not belong together", where=f"{first}, {second}", why=why, hint="one row a run in both"
        )
    return one, other.take([place[value] for value in left])


def _matrix(table: pa.Table, names: Sequence[str], source: Path) -> np.ndarray:
    columns = []
    for name in names:
        try:
            columns.append(np.array([np.nan if v is None else float(v) for v in table[name].to_pylist()]))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"`{name}` holds no numbers", where=str(source), why=str(error), hint="numbers in plain digits"
            ) from None
    return np.stack(columns, axis=1)


def fit(
    rows: Mixtures, second: Mixtures | None = None, *, seed: int = 0, on_target: Callable[[int, int], None] | None = None
) -> MixtureLaw:
    """The law of the rows, carried over to a second scale where there are rows of one.

    Raises
    ------
    InputError : the two do not have the same domains and targets.
    """
    pair = None
    if second is not None:
        for name, ours, theirs in (("domain", rows.domains, second.domains), ("target", rows.targets, second.targets)):
            if ours != theirs:
                odd = sorted(set(ours) ^ set(theirs))
                why = f"`{odd[0]}` is in one of them only" if odd else "they stand in another order"
                raise InputError(
                    f"the second scale has other {name}s", why=why, hint="both tables need the same columns in one order"
                )
        pair = second.weights_nD, second.loss_nT
    return mixture.fit(rows.weights_nD, rows.loss_nT, rows.domains, rows.targets, second=pair, seed=seed, on_target=on_target)


def as_json(law: MixtureLaw) -> dict[str, Any]:
    """What a law is made of: each target's members with their share and agreement, and how far off held-out rows were."""
    off = np.sqrt((law.residual_nT**2).mean(axis=0))
    return {
        "rows": len(law.loss_nT),
        "domains": list(law.domains),
        "targets": {
            name: {
                "agreement": dict(zip(law.names, map(float, law.agreement_TM[t]), strict=True)),
                "share": dict(zip(law.names, map(float, law.share_TM[t]), strict=True)),
                "off": float(off[t]),
            }
            for t, name in enumerate(law.targets)
        },
    }


def text(law: MixtureLaw, found: mixture_best.Best) -> str:
    """An answer to read: the mixture beside the natural one, how sure it is, and what was measured near it."""
    low, high = found.loss_80
    lines = [f"{'domain':24} {'best':>7}  {'80 %':15} {'natural':>8} {'nearest run':>12}  a hundredth more"]
    for name in sorted(found.weights, key=lambda name: -found.weights[name]):
        a, b = found.weights_80[name]
        spread = f"{a:.3f} to {b:.3f}"
        measured = found.neighbour_weights[name]
        told = f"{name[:24]:24} {found.weights[name]:7.3f}  {spread:15} {found.natural[name]:8.3f}"
        lines.append(f"{told} {measured:12.3f}  {found.effects[name]:+.4f}")
    lines += [
        "",
        f"loss {found.loss:.4f} (80 %: {low:.4f} to {high:.4f}); natural mixture {found.natural_loss:.4f}; "
        f"better in {found.sure:.0%} of bootstraps",
        f"nearest measured: row {found.neighbour}, {found.apart:.0%} of the weight apart, measured {found.neighbour_loss:.4f}",
        "ranks held-out rows: " + ", ".join(f"{name} {law.agreement_TM[:, m].mean():.3f}" for m, name in enumerate(law.names)),
    ]
    return "\n".join(lines)
