"""How the pages write values: thousands separated, metrics with three decimals, units always, a dash for the unknown.

Sizes count in powers of 1,000 (kB, MB), as disks do. The minus is U+2212, which is as wide as the plus in every font.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from markupsafe import Markup, escape

from gyral import progress

NONE = "–"
_METRIC_NAMES = {"ndcg": "NDCG", "hit": "hit rate", "recall": "recall", "map": "MAP", "mrr": "MRR", "r": "R"}


def is_number(value: Any) -> bool:
    """Whether a value of a record is a number; a yes or no is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def metric(value: float | None) -> str:
    """Write a quality between 0 and 1: `0.213`."""
    return NONE if value is None else f"{value:.3f}"


def loss(value: float | None) -> str:
    """Write a loss in nats, or another number of ordinary size: `2.913`, `12.4`."""
    return NONE if value is None else f"{value:.4g}"


def small(value: float | None) -> str:
    """Write a number that may be small, such as a learning rate: `0.001`, `3e-05`, `0`."""
    return NONE if value is None else f"{value:.3g}".replace("-", "−")


def brief(value: float | None) -> str:
    """Write a number of any size with three digits: `0.132`, `64.3`, `1,430`."""
    return NONE if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def money(value: float | None) -> str:
    """Write an amount with two digits that count and no power of ten: `12`, `0.19`, `0.000021`."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{Decimal(f'{value:.2g}'):f}"


def count(value: float | None) -> str:
    """Write a count: `541,909`."""
    return NONE if value is None else f"{value:,.0f}"


def compact(value: float | None) -> str:
    """Write a count where there is little room: `950`, `8.2k`, `541k`, `1.4M`."""
    if value is None:
        return NONE
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            scaled = value / limit
            return f"{scaled:.1f}{unit}" if abs(scaled) < 9.95 else f"{scaled:.0f}{unit}"
    return f"{value:.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2g}"


def size(value: float | None) -> str:
    """Write bytes: `812 B`, `12.3 kB`, `4.5 MB`."""
    if value is None:
        return NONE
    for limit, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:.0f} B"


def share(value: float | None) -> str:
    """Write a part of one: `24.9 %`."""
    if value is not None and 0 < value < 0.0005:
        return "<0.1 %"
    return NONE if value is None else f"{100 * value:.1f} %".replace("-", "−")


def plural(number: int, noun: str) -> str:
    """Write a count with its noun: `1 file`, `1,200 files`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def signed_share(value: float | None) -> str:
    """Write a relative change: `+38.1 %`, `−3.0 %`."""
    return NONE if value is None else f"{100 * value:+.1f} %".replace("-", "−")


def duration(value: float | None) -> str:
    """Write seconds: `40 ms`, `1.4 s`, `3 min 05 s`."""
    if value is None:
        return NONE
    return f"{1000 * value:.0f} ms" if 0 < value < 0.1 else progress.duration(value)


def seconds_tick(value: float) -> str:
    """Write seconds on an axis: `40 s`, `5 min`, `2 h`."""
    scale, unit = (3600, "h") if value >= 7200 else (60, "min") if value >= 120 else (1, "s")
    return f"{value / scale:.3g} {unit}"


def ms_tick(value: float) -> str:
    """Write milliseconds on an axis: `40 ms`, `15 s`."""
    return f"{value / 1000:g} s" if value >= 1000 else f"{value:g} ms"


def size_tick(value: float) -> str:
    """Write bytes on an axis, where they are round: `800 MB`."""
    return size(value).replace(".0 ", " ")


def milliseconds(value: float | None) -> str:
    """Write milliseconds: `4.2 ms`, `0.025 ms`."""
    return NONE if value is None else f"{value:.2g} ms" if 0 < value < 0.1 else f"{value:,.1f} ms"


def rate(value: float | None, unit: str) -> str:
    """Write a rate: `82k rows/s`."""
    return NONE if not value else f"{compact(value)} {unit}/s"


def parse(text: str | None) -> datetime | None:
    """Read an RFC 3339 time; None when it is not one."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def moment(text: str | None) -> str:
    """Write a point in time: `12 Mar 2025, 14:02 UTC`."""
    at = parse(text)
    return f"{at.astimezone(UTC):%-d %b %Y, %H:%M} UTC" if at else text or NONE


def day(text: str | None) -> str:
    """Write a date: `12 Mar 2025`."""
    at = parse(text)
    return f"{at.astimezone(UTC):%-d %b %Y}" if at else text or NONE


def age(text: str | None, now: datetime | None) -> str:
    """Write how long ago a time was: `just now`, `3 min ago`; without `now` (in a file that stays), the short date."""
    at = parse(text)
    if at is None:
        return NONE
    if now is None:
        return f"{at.astimezone(UTC):%-d %b %H:%M}"
    seconds = (now - at).total_seconds()
    if seconds < 45:
        return "just now"
    if seconds < 90 * 60:
        return f"{max(round(seconds / 60), 1)} min ago"
    return f"{round(seconds / 3600)} h ago" if seconds < 36 * 3600 else f"{round(seconds / 86400):,} d ago"


def metric_name(name: str) -> str:
    """Write a metric's name: `ndcg_at_10` → `NDCG@10`."""
    if name.startswith("known_"):
        return f"{metric_name(name.removeprefix('known_'))}, people the model has met"
    head, at, k = name.partition("_at_")
    return _METRIC_NAMES.get(head, words(head)) + (f"@{k}" if at else "")


def ticked(text: str) -> Markup:
    """Write an error's sentence: literals in backticks become code, everything is escaped."""
    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(text))))


def words(name: str) -> str:
    """Write an identifier as words: `missing_subject` → `missing subject`."""
    return name.replace("_per_s", " a second").replace("_", " ")


def label(key: str) -> str:
    """Write the name of a value of a run's summary, without the unit that `value_of` writes: `elapsed_s` → `elapsed`."""
    if "_at_" in key:
        return metric_name(key)
    known = {"elapsed_s": "took", "cpu_s": "CPU time", "peak_bytes": "peak memory"}
    if key in known:
        return known[key]
    short = key if key.endswith("_per_s") else re.sub(r"_(s|ms|bytes)$", "", key).removeprefix("num_")
    return re.sub(r"^bytes ", "size ", words(short))


def value_of(key: str, value: Any) -> str:
    """Write a value of a run's summary, guessing its kind from the key."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return NONE if value is None else str(value)
    if key in ("cpu_s", "peak_bytes") and not value:  # a part of a loop shares its process with the others
        return NONE
    if "bytes" in key:
        return size(value)
    if key.endswith(("_per_s", "per_s")):
        return count(value)
    if key.endswith("_ms"):
        return milliseconds(value)
    if key.endswith("_s") or key == "seconds":
        return duration(value)
    if key.startswith("share_"):
        return share(value)
    if "loss" in key:
        return share(value)
    if "_at_" in key:
        return metric(value)
    return progress.number(value)
