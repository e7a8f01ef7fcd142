"""The command line of keys: made, listed and revoked in a project's `keys.toml`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gyral.console import common, names, print_result
from gyral.errors import NotFound, UsageError, did_you_mean
from gyral.usage import Command, Commands

if TYPE_CHECKING:
    from gyral.keys import Granted


@click.group(cls=Commands)
def keys() -> None:
    """Make, list and revoke keys; once there is one, nothing is answered without."""


@keys.command(cls=Command)
@click.argument("name")
@click.option("--may", type=click.Choice(["ask", "send", "see"]), required=True, help="Ask models, send events, or see pages.")
@click.option("--rate", type=click.FloatRange(min=0), metavar="PER_S", help="Requests, or events, a second at most.")
@click.option("--tokens", type=click.FloatRange(min=0), metavar="PER_S", help="Tokens, read and written, a second at most.")
@click.option("--models", metavar="MODEL,…", callback=names, help="Models that may be asked; all by default.")
@click.option("--kinds", metavar="KIND,…", callback=names, help="Kinds of events that may be sent; all by default.")
@common
def add(root: Path, sets: tuple[str, ...], as_json: bool, name: str, may: str, **limits: Any) -> None:
    """Make a key for NAME and show it, once: only its hash is kept."""
    import msgspec

    from gyral.keys import FILE_NAME, LOOP, Granted, new_key, read_keys, write_keys

    path = root / FILE_NAME
    known = read_keys(path) if path.exists() else []
    if any(each.name == name for each in known):
        raise UsageError(f"there is a key `{name}`", where=str(path), hint=f"another name, or first `gyral keys revoke {name}`")
    if name == LOOP:
        raise UsageError(f"`{LOOP}` is the name of a loop's own key", where=str(path), hint="choose another name")
    secret, digest = new_key()
    added = {"name": name, "sha256": digest, "may": may, "added": f"{datetime.now(UTC):%Y-%m-%d}", **_limits(may, limits)}
    try:
        granted = msgspec.convert(added, Granted)
    except msgspec.ValidationError as error:
        raise UsageError(f"`{name}` cannot be the name of a key", why=str(error), hint="letters, digits, `-` and `_`") from None
    write_keys(path, [*known, granted])
    told = f"{secret}\n\nShown once. It may {granted.scope}; servers that run take it within a second."
    if not known:
        told += "\nThe first key: from now on everything wants one."
    print_result(as_json, {"name": name, "may": may, "key": secret}, lambda: told)


def _limits(may: str, given: dict[str, Any]) -> dict[str, Any]:
    """Fields of a key, of the options that were given.

    Raises
    ------
    UsageError : an option says nothing of what such a key is good for.
    """
    fields = {
        "ask": {"rate": "requests_per_s", "tokens": "tokens_per_s", "models": "models"},
        "send": {"rate": "events_per_s", "kinds": "kinds"},
        "see": {},
    }[may]
    for option in [option for option, value in given.items() if value and option not in fields]:
        hint = f"leave it out, or {', '.join(f'`--{each}`' for each in fields)}" if fields else "leave it out"
        raise UsageError(f"`--{option}` means nothing to a key that may {may}", hint=hint)
    limits = {fields[option]: value for option, value in given.items() if value}
    return limits | ({"events_per_s": int(limits["events_per_s"])} if "events_per_s" in limits else {})


def _rates(granted: Granted) -> str:
    rates = {"requests": granted.requests_per_s, "events": granted.events_per_s, "tokens": granted.tokens_per_s}
    return ", ".join(f"{rate:,g} {unit} a second" for unit, rate in rates.items() if rate) or "as often as it likes"


@keys.command("list", cls=Command)
@common
def list_(root: Path, sets: tuple[str, ...], as_json: bool) -> None:
    """List keys: names, what they may, at which rate, since when."""
    from gyral.keys import FILE_NAME, read_keys

    path = root / FILE_NAME
    found = read_keys(path) if path.exists() else []
    rows: list[dict[str, Any]] = [
        {
            "name": each.name, "may": each.may, "per_s": each.events_per_s or each.requests_per_s,
            "tokens_per_s": each.tokens_per_s, "models": each.models, "kinds": each.kinds, "added": each.added,
        }
        for each in found
    ]  # fmt: skip
    lines = [f"{each.name:<24} {each.added:<10}  may {each.scope}, {_rates(each)}" for each in found]
    print_result(as_json, {"keys": rows}, lambda: "\n".join(lines) or "no keys: `gyral keys add NAME --may ask`")


@keys.command(cls=Command)
@click.argument("name")
@common
def revoke(root: Path, sets: tuple[str, ...], as_json: bool, name: str) -> None:
    """Take the key of NAME back; servers that run know it within a second."""
    from gyral.keys import FILE_NAME, read_keys, write_keys

    path = root / FILE_NAME
    known = read_keys(path) if path.exists() else []
    if all(each.name != name for each in known):
        hint = did_you_mean(name, [each.name for each in known]) or "`gyral keys list`"
        raise NotFound(f"there is no key `{name}`", where=str(path), hint=hint)
    write_keys(path, [each for each in known if each.name != name])
    print_result(as_json, {"revoked": name}, lambda: f"`{name}` is revoked")
