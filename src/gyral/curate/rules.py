"""Rules over the envelope and the props: pure functions RecordBatch → reasons.

A rule is data (`config.sections.Rule`), so a layout, a `gyral.toml` and a stored manifest say the same thing. Only the props
that some rule names are decoded, 0.3 µs a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.config.sections import Rule
from gyral.errors import ConfigError, did_you_mean
from gyral.event.clock import parse_times
from gyral.event.codec import numbers
from gyral.event.schema import EVENT

PROPS = "props."
TIMES = ("event_time", "ingest_time")
COMPARE: dict[str, Callable[[pa.Array, Any], pa.Array]] = {
    "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal, "==": pc.equal, "!=": pc.not_equal,
}  # fmt: skip


def check(rules: Sequence[Rule]) -> None:
    """Refuse rules on fields that no event has, and patterns that do not compile.

    Raises
    ------
    ConfigError : names the rule, with the nearest field.
    """
    for rule in rules:
        if not rule.field.startswith(PROPS) and rule.field not in EVENT.names:
            raise ConfigError(
                f"the rule `{rule.reason}` looks at `{rule.field}`, which events do not have",
                where="[curate] rules",
                hint=did_you_mean(rule.field, [*EVENT.names, "props.NAME"]),
            )
        if rule.value is None and rule.op != "is null":
            raise ConfigError(
                f"the rule `{rule.reason}` compares `{rule.field}` with nothing", where="[curate] rules", hint="add `value = …`"
            )
        if rule.field in TIMES and rule.op in COMPARE and _moment(rule.value) is None:
            hint = 'write it as "2011-01-31T00:00:00Z"'
            raise ConfigError(
                f"the rule `{rule.reason}` compares a time with `{rule.value}`", where="[curate] rules", hint=hint
            )
        if rule.op in ("matches", "not matches"):
            try:
                pc.match_substring_regex(pa.array(["x"]), str(rule.value))
            except pa.ArrowInvalid as error:
                raise ConfigError(
                    f"the pattern of the rule `{rule.reason}` is not valid",
                    why=str(error).splitlines()[0],
                    where="[curate] rules",
                    hint="regular expressions are RE2's: no look-around, no back-references",
                ) from None


def props_needed(rules: Sequence[Rule]) -> list[str]:
    """Names of the props that the rules look at."""
    return list(dict.fromkeys(rule.field.removeprefix(PROPS) for rule in rules if rule.field.startswith(PROPS)))


def read_props(batch: pa.RecordBatch, names: Sequence[str]) -> dict[str, pa.Array]:
    """Decode the named props of each row; what is missing or of mixed type becomes null or text."""
    if not names:
        return {}
    fields = [(f"p{number}", Any, msgspec.field(default=None, name=name)) for number, name in enumerate(names)]
    decode = msgspec.json.Decoder(msgspec.defstruct("Props", fields)).decode
    texts = batch.column("props").to_pylist()
    rows = [decode(text) if text is not None else None for text in texts]
    return {name: _column([getattr(row, f"p{number}", None) for row in rows]) for number, name in enumerate(names)}


def apply(batch: pa.RecordBatch, props: dict[str, pa.Array], rules: Sequence[Rule]) -> np.ndarray:
    """Number of the first rule that drops each row, counted from 1; 0 where none does."""
    reasons = np.zeros(batch.num_rows, dtype=np.int16)
    for number, rule in enumerate(rules, start=1):
        name = rule.field.removeprefix(PROPS)
        values = props[name] if rule.field.startswith(PROPS) else batch.column(rule.field)
        mask = pc.fill_null(_holds(values, rule), False).to_numpy(zero_copy_only=False)
        reasons[mask & (reasons == 0)] = number
    return reasons


def _holds(values: pa.Array, rule: Rule) -> pa.Array:
    if rule.op == "is null":
        return pc.is_null(values)
    if rule.op in ("matches", "not matches"):
        encoded = values.cast(pa.string()).dictionary_encode()
        found = pc.match_substring_regex(encoded.dictionary, str(rule.value)).take(encoded.indices)
        return found if rule.op == "matches" else pc.invert(found)
    other: Any
    if rule.field in TIMES:
        other = _moment(rule.value)
    elif isinstance(rule.value, int | float) and not isinstance(rule.value, bool):
        values, other = numbers(values), float(rule.value)
    else:
        values, other = values.cast(pa.string()), str(rule.value)
    return COMPARE[rule.op](values, other)


def _moment(value: Any) -> pa.Scalar | None:
    found = parse_times(pa.array([None if value is None else str(value)], pa.string()))[0]
    return found if found.is_valid else None


def _column(values: list[Any]) -> pa.Array:
    """Values of one kind as they are; mixed or nested ones as text."""
    plain = [msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value for value in values]
    try:
        return pa.array(plain)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if value is None else value if isinstance(value, str) else str(value) for value in plain])
