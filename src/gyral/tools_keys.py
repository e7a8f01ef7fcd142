"""The command line of keys: made, listed and revoked in a project's `keys.toml`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from gyral.console import common, print_result
from gyral.errors import NotFound, UsageError, did_you_mean
from gyral.usage import Command, Commands


@click.group(cls=Commands)
def keys() -> None:
    """Make, list and revoke keys; once there is one, nothing is answered without."""


@keys.command(cls=Command)
@click.argument("name")
@click.option("--may", type=click.Choice(["ask", "send", "see"]), required=True, help="Ask models, send events, or see pages.")
@click.option("--rate", type=click.FloatRange(min=0), metavar="PER_S", help="Requests, or events, a second at most.")
@common
def add(root: Path, sets: tuple[str, ...], as_json: bool, name: str, may: str, rate: float | None) -> None:
    """Make a key for NAME and show it, once: only its hash is kept."""
    import msgspec

    from gyral.keys import FILE_NAME, Granted, new_key, read_keys, write_keys

    path = root / FILE_NAME
    known = read_keys(path) if path.exists() else []
    if any(each.name == name for each in known):
        raise UsageError(f"there is a key `{name}`", where=str(path), hint=f"another name, or first `gyral keys revoke {name}`")
    secret, digest = new_key()
    added: dict[str, Any] = {"name": name, "sha256": digest, "may": may, "added": f"{datetime.now(UTC):%Y-%m-%d}"}
    if rate and may != "see":
        added["events_per_s" if may == "send" else "requests_per_s"] = int(rate) if may == "send" else rate
    try:
        granted = msgspec.convert(added, Granted)
    except msgspec.ValidationError as error:
        raise UsageError(f"`{name}` cannot be the name of a key", why=str(error), hint="letters, digits, `-` and `_`") from None
    write_keys(path, [*known, granted])
    told = f"{secret}\n\nShown once. It may {may}; servers that run with keys take it within a second."
    if not known:
        told += "\nThe first key: from now on everything wants one. Start servers again that run without."
    print_result(as_json, {"name": name, "may": may, "key": secret}, lambda: told)


@keys.command("list", cls=Command)
@common
def list_(root: Path, sets: tuple[str, ...], as_json: bool) -> None:
    """List keys: names, what they may, at which rate, since when."""
    from gyral.keys import FILE_NAME, read_keys

    path = root / FILE_NAME
    rows: list[dict[str, Any]] = [
        {"name": each.name, "may": each.may, "per_s": each.events_per_s or each.requests_per_s, "added": each.added}
        for each in (read_keys(path) if path.exists() else [])
    ]
    lines = [f"{row['name']:<24} {row['may']:<5} {row['per_s'] or 'any':>8}/s  {row['added']}" for row in rows]
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
