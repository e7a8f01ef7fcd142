"""Configuration: one frozen struct per verb; defaults < `gyral.toml` < `--set`; it explains itself.

Every field carries its meaning, unit and range in its type, so the same declaration validates a value, names the allowed ones
in an error and prints the table of `gyral show config`. msgspec does the decoding (3.8x bare Python to import, pydantic 13x).
"""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gyral.errors import ConfigError, did_you_mean
from gyral.toml import key as toml_key
from gyral.toml import toml

FILE_NAME = "gyral.toml"
HIDDEN = "…"

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}"
"""Names of datasets and models: they are folders, tags and parts of addresses."""
Text = Annotated[str, Meta(min_length=1)]
RuleOp = Literal["<", "<=", ">", ">=", "==", "!=", "matches", "not matches", "is null"]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    """Base of the sections: frozen, and a field nobody declared is an error."""


class Rule(Section, frozen=True):
    """Rows for which `field op value` holds are dropped with `reason`; a field is an envelope name or `props.NAME`."""

    reason: Text
    field: Text
    op: RuleOp
    value: str | float | int | None = None


class Feature(Section, frozen=True):
    """What events of another kind had told of an interaction's subject or object by then: a column for each value."""

    kind: Text
    take: dict[str, str]
    """Column of the dataset → field: an envelope name or `props.NAME`."""
    on: Literal["subject", "object"] = "subject"
    known: Literal["event_time", "ingest_time"] = "event_time"
    """Values count that had come in when the interaction happened, or, for what was imported later, when it came in itself."""


class Ingest(Section, frozen=True):
    """Source → Lake."""

    source: Annotated[str, Meta(description="file, or a file of a package: `pip:NAME==VERSION!/MEMBER`, `npm:…`, `apt:…`")] = ""
    layout: Annotated[str, Meta(description="name of a known layout; empty: recognised by the columns")] = ""
    map: Annotated[dict[str, str], Meta(description="envelope field → column: subject, object and time at least")] = {}
    time_format: Annotated[str, Meta(description="strptime format of the time column, if it is neither RFC 3339 nor epoch")] = (
        ""
    )
    batch_rows: Annotated[int, Meta(ge=1, le=1_000_000, description="rows a log batch")] = 32_768
    commit_rows: Annotated[int, Meta(ge=1, le=10_000_000, description="rows a lake commit at most")] = 65_536
    log: Annotated[str, Meta(description="the log: `kafka://HOST:PORT/TOPIC`; empty: in the lake's folder")] = ""
    dedup_days: Annotated[
        int, Meta(ge=0, description="days an event id is remembered after it came in, 16 B each; 0: always")
    ] = 0


class Key(Section, frozen=True):
    """Somebody who may send events: `gyral.ingest.keys.newkey()` makes a key and its hash."""

    name: Annotated[str, Meta(pattern=rf"^{NAME}$", description="kept with what is quarantined")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$", description="of the key; the key itself is stored nowhere")]
    events_per_s: Annotated[int, Meta(ge=0, description="0: no limit")] = 0
    bytes_per_s: Annotated[int, Meta(ge=0, description="as sent, perhaps compressed; 0: no limit")] = 0


class Collect(Section, frozen=True):
    """HTTP → log: `POST /v1/events` of `gyral ingest --listen` and of `gyral serve`."""

    keys: Annotated[list[Key], Meta(description="who may send; empty: everybody")] = []
    max_body_bytes: Annotated[int, Meta(ge=64, le=1 << 30, description="larger requests are refused with 413")] = 8 << 20
    max_decoded_bytes: Annotated[int, Meta(ge=64, le=1 << 31, description="the same after decompression")] = 64 << 20
    max_events: Annotated[int, Meta(ge=1, description="events a request at most")] = 10_000
    max_waiting: Annotated[int, Meta(ge=1, description="requests that may wait to be stored; more get 429")] = 1_024
    max_waiting_bytes: Annotated[int, Meta(ge=1, description="the same in bytes")] = 128 << 20
    max_lag_bytes: Annotated[int, Meta(ge=1, description="log that may wait for the lake; beyond: 429")] = 4 << 30
    min_free_bytes: Annotated[int, Meta(ge=0, description="below this much free disk requests get 429")] = 512 << 20
    drain_every_s: Annotated[float, Meta(gt=0, le=3600, description="how often the log is committed to the lake")] = 0.25


class Device(Section, frozen=True):
    """A class of devices, `[devices.NAME]`; `[devices.default]` is of those that name none, or one that is not here."""

    skew_s: Annotated[float, Meta(ge=0, description="a clock further ahead than this is not believed")] = 300.0
    offline_s: Annotated[
        float, Meta(ge=0, description="how long such a device can keep events before it sends; 0: no limit")
    ] = 0.0
    tier: Annotated[str, Meta(description="what it can run: `phone`, `laptop`, `server`, …")] = ""


class Kafka(Section, frozen=True):
    """How brokers are reached when `ingest.log` is a topic."""

    max_message_bytes: Annotated[int, Meta(ge=10_000, le=64 << 20, description="as the topic has it")] = 1_000_000
    options: Annotated[
        dict[str, str | int], Meta(description="of librdkafka: `security.protocol`, `sasl.username`, `ssl.ca.location`, …")
    ] = {}


class Curate(Section, frozen=True):
    """Lake → Dataset."""

    name: Annotated[
        str,
        Meta(
            pattern=rf"^({NAME})?$",
            description="name of the dataset (letters, digits, `_`, `.`, `-`); empty: that of the source",
        ),
    ] = ""
    apps: Annotated[
        list[str], Meta(description="applications whose events are taken; empty: all. Events of a file carry its name")
    ] = []
    repeats: Annotated[
        bool | None, Meta(description="may a subject meet an object again? unset: as the layout says, or measured")
    ] = None
    rules: Annotated[list[Rule], Meta(description="rows to drop, beside the layout's own rules")] = []
    features: Annotated[
        list[Feature], Meta(description="columns to add: what events of another kind had told by then (`kind`, `take`, `on`)")
    ] = []
    duplicates: Annotated[bool, Meta(description="drop exact duplicates")] = True
    robot_events_per_hour: Annotated[int, Meta(ge=1, description="a subject with more events in one hour is a robot")] = 2_000
    robot_regular_events: Annotated[
        int, Meta(ge=10, description="a subject with this many moments spaced like a clock is a robot")
    ] = 200


class Train(Section, frozen=True):
    """Dataset → Model."""

    family: Annotated[str, Meta(min_length=1, description="kind of model")] = "recommender"
    budget: Annotated[str, Meta(description="time (`90s`, `3m`, `1h`) or work (`1e12flop`)")] = "3m"
    seed: Annotated[int, Meta(ge=0, description="same data, config and seed: same bytes")] = 0


class Compress(Section, frozen=True):
    """Model → Model."""

    to: Annotated[str, Meta(min_length=1, description="target format")] = "int8"
    max_loss: Annotated[float, Meta(ge=0, le=1, description="largest relative loss of the family's metric")] = 0.01


class Serve(Section, frozen=True):
    """Model → Lake: it appends the events it causes."""

    host: Annotated[str, Meta(min_length=1, description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="0 takes a free one")] = 8000
    max_k: Annotated[int, Meta(ge=1, le=10_000, description="most items a request may ask for")] = 1_000
    max_body_bytes: Annotated[int, Meta(ge=64, le=1 << 30, description="larger requests are refused with 413")] = 65_536
    impressions: Annotated[bool, Meta(description="append each answer to the log as an `impression` event")] = True


class Loop(Section, frozen=True):
    """One turn after the other."""

    turns: Annotated[int, Meta(ge=1, le=1_000, description="the source is cut into turns + 1 slices")] = 6
    max_asked: Annotated[int, Meta(ge=1, description="subjects asked about in a turn; of more, a sample by the seed")] = 10_000


class Dash(Section, frozen=True):
    """The pages."""

    host: Annotated[str, Meta(min_length=1, description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="0 takes a free one")] = 8765


class Config(Section, frozen=True):
    """Everything that can be set, one section a verb."""

    on: Annotated[str, Meta(description="where work runs: `local`, `local://threads=N` or `local://processes=N`")] = "local"
    lake: Annotated[str, Meta(min_length=1, description="folder of the lake, anywhere, or `s3://BUCKET/PREFIX`")] = "lake"
    lake_options: Annotated[
        dict[str, str | int | bool], Meta(description="of an object store: `aws_endpoint`, `aws_region`, `allow_http`, …")
    ] = {}
    ingest: Ingest = Ingest()
    collect: Collect = Collect()
    kafka: Kafka = Kafka()
    devices: Annotated[
        dict[str, Device],
        Meta(description="classes of devices: how far a clock may be off, how late they send, what they can run"),
    ] = {}
    curate: Curate = Curate()
    train: Train = Train()
    compress: Compress = Compress()
    serve: Serve = Serve()
    loop: Loop = Loop()
    dash: Dash = Dash()


def load(root: Path, sets: Sequence[str] = (), flags: Mapping[str, Any] | None = None) -> Config:
    """Resolve the configuration of a project folder.

    Parameters
    ----------
    root : the folder that may hold a `gyral.toml`.
    sets : `section.key=value` strings in TOML syntax, as given by `--set`; a bare word is a string.
    flags : dotted key → value, from the command's own options; they win over everything, `None` is skipped.

    Raises
    ------
    ConfigError : with the file and line, the allowed values, and the nearest known name.
    """
    path = root / FILE_NAME
    tree: dict[str, Any] = {}
    text = ""
    if path.exists():
        try:
            text = path.read_text(encoding="utf-8")
            tree = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            hint = "strings need quotes, sections look like `[train]`; a file in another encoding must be saved as UTF-8"
            raise ConfigError(f"`{FILE_NAME}` is not valid TOML", why=str(error), where=str(path), hint=hint) from None
    origin: dict[str, str] = {}
    for given in sets:
        key, equals, value = given.partition("=")
        if not equals:
            raise ConfigError(f"`--set {given}` has no `=`", hint="write `--set section.key=value`")
        _put(tree, key.strip(), _parse_value(value.strip()), given)
        origin[key.strip()] = f"--set {given}"
    for key, value in (flags or {}).items():
        if value is not None:
            _put(tree, key, value, key)
            origin[key] = f"--{key.rpartition('.')[2].replace('_', '-')}"
    try:
        return msgspec.convert(tree, Config, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(str(error), tree, path, text, origin) from None


def public(config: Config) -> Config:
    """The configuration as it may be kept and shown: options of other systems, some of them secrets, without their values."""
    kafka = msgspec.structs.replace(config.kafka, options=dict.fromkeys(config.kafka.options, HIDDEN))
    return msgspec.structs.replace(config, lake_options=dict.fromkeys(config.lake_options, HIDDEN), kafka=kafka)


def public_words(words: Sequence[str], hide: str = "") -> list[str]:
    """A command line as it may be kept and shown: `--set` of such options without the value, and one word hidden."""
    words = [HIDDEN if hide and word == hide else word for word in words]
    return [re.sub(r"^((?:--set=)?(?:lake_options|kafka)\b[^=]*=).*", rf"\1{HIDDEN}", word, flags=re.DOTALL) for word in words]


def describe(config: Config) -> list[tuple[str, Any, str]]:
    """List every setting as (dotted key, value, meaning)."""
    rows = []
    for section in msgspec.structs.fields(config):
        value = getattr(config, section.name)
        if not isinstance(value, Section):
            rows.append((section.name, value, _meaning(Config, section.name)))
            continue
        for field in msgspec.structs.fields(value):
            rows.append((f"{section.name}.{field.name}", getattr(value, field.name), _meaning(type(value), field.name)))
    return rows


def to_toml(config: Config) -> str:
    """Write a resolved configuration as TOML that `load` reads back to an equal one."""
    lines: list[str] = []
    sections: list[str] = []
    for key, value in msgspec.to_builtins(config).items():
        if isinstance(value, dict):
            sections.append(
                f"\n[{key}]\n"
                + "".join(f"{toml_key(name)} = {toml(item)}\n" for name, item in value.items() if item is not None)
            )
        else:
            lines.append(f"{key} = {toml(value)}\n")
    return "".join(lines + sections)


def budget_seconds(text: str, *, flop_per_s: float = 20e9) -> float:
    """Turn `90s`, `3m`, `1h` or `1e12flop` into seconds of one laptop core.

    Work is converted at a nominal rate, not a measured one, so that the same budget plans the same candidates everywhere.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?\d+)?)\s*(s|sec|m|min|h|flop|flops)\s*", text)
    number = _float(match.group(1)) if match else None
    if match is None or number is None:
        raise ConfigError(f"`--budget {text}` is not a time or an amount of work", hint="write `90s`, `3m`, `1h` or `1e12flop`")
    unit = match.group(2)
    seconds = number * {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}.get(unit, 1 / flop_per_s)
    if not 0 < seconds < 1e9:
        raise ConfigError(
            f"`--budget {text}` {'buys nothing' if seconds <= 0 else 'has no end'}",
            hint="give at least a second, for example `--budget 3m`",
        )
    return seconds


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(tree: dict[str, Any], key: str, value: Any, given: str) -> None:
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"`{given}`: `{parent}` is not a section")
    node[leaf] = value


def _explain(message: str, tree: dict[str, Any], path: Path, text: str, origin: Mapping[str, str]) -> ConfigError:
    """Turn msgspec's message with its `$.a.b` path into what, where, why and hint."""
    reason, _, raw = message.partition(" - at `$")
    keys = [part for part in re.split(r"[.\[\]]+", raw.strip(" `.")) if part and part != "..."]
    unknown = re.search(r"unknown field `(.+?)`", reason)
    struct: type = Config
    for key in keys:
        struct = _field_types(struct).get(key, struct)
    if unknown:
        name = unknown.group(1)
        dotted = ".".join([*keys, name])
        known = list(_field_types(struct))
        return ConfigError(
            f"`{dotted}` is not a setting", where=_place(dotted, path, text, origin), hint=did_you_mean(name, known)
        )
    dotted = ".".join(keys)
    value: Any = tree
    for key in keys:
        value = value[int(key) if isinstance(value, list) else key] if value is not None else None
    parent: type = Config
    for key in keys[:-1]:
        parent = _field_types(parent).get(key, parent)
    meaning = _meaning(parent, keys[-1]) if keys else ""
    allowed = _allowed(parent, keys[-1]) if keys else []
    if allowed and isinstance(value, str):
        meaning = did_you_mean(value, allowed)
    return ConfigError(
        f"`{dotted} = {toml(value)}` cannot be used",
        why=reason[:1].lower() + reason[1:],
        where=_place(dotted, path, text, origin),
        hint=f"`{dotted}`: {meaning}" if meaning else "",
    )


def _field_types(struct: type) -> dict[str, type]:
    if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
        return {}
    result = {}
    for field in msgspec.structs.fields(struct):
        kind = field.type
        while typing.get_origin(kind) in (Annotated, list):
            kind = typing.get_args(kind)[0]
        result[field.name] = kind
    return result


def _allowed(struct: type, name: str) -> list[str]:
    kind = _field_types(struct).get(name)
    return [str(each) for each in typing.get_args(kind)] if typing.get_origin(kind) is Literal else []


def _meaning(struct: type, name: str) -> str:
    for field in msgspec.structs.fields(struct):
        if field.name == name and typing.get_origin(field.type) is Annotated:
            for extra in typing.get_args(field.type)[1:]:
                if isinstance(extra, Meta) and extra.description:
                    return extra.description
    return ""


def _place(dotted: str, path: Path, text: str, origin: Mapping[str, str]) -> str:
    if dotted in origin:
        return origin[dotted]
    section, _, leaf = dotted.rpartition(".")
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        if header:
            current = header.group(1)
            if current == dotted:
                return f"{path.name}, line {number}"
        elif re.match(rf"\s*{re.escape(leaf)}\s*=", line) and current == section:
            return f"{path.name}, line {number}"
    return path.name if text else ""
