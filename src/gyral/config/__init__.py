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

from gyral.config.bench import Bench
from gyral.config.curation import Curate, Decontaminate, Dedup, Images, Language, Mix, Privacy, Quality, Tokens
from gyral.config.rerank import Rerank
from gyral.config.sections import (
    Collect,
    Compress,
    Dash,
    Decode,
    Device,
    Ingest,
    Kafka,
    Listen,
    Loop,
    Section,
    Serve,
)
from gyral.config.training import Ablate, Lm, Params, Recommend, Train, Vision
from gyral.errors import ConfigError, did_you_mean
from gyral.toml import key as toml_key
from gyral.toml import toml

FILE_NAME = "gyral.toml"
HIDDEN = "…"


class Config(Section, frozen=True):
    """Everything that can be set, one section a verb."""

    on: Annotated[
        str,
        Meta(description="where work runs: `local`, `local://threads=N`, `local://processes=N`, `ray://` or `ray://HOST:PORT`"),
    ] = "local"
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
    language: Language = Language()
    quality: Quality = Quality()
    dedup: Dedup = Dedup()
    privacy: Privacy = Privacy()
    decontaminate: Decontaminate = Decontaminate()
    images: Images = Images()
    mix: Mix = Mix()
    tokens: Tokens = Tokens()
    train: Train = Train()
    lm: Lm = Lm()
    vision: Vision = Vision()
    recommend: Recommend = Recommend()
    params: Params = Params()
    ablate: Ablate = Ablate()
    compress: Compress = Compress()
    serve: Serve = Serve()
    decode: Decode = Decode()
    rerank: Rerank = Rerank()
    loop: Loop = Loop()
    dash: Dash = Dash()
    listen: Listen = Listen()
    bench: Bench = Bench()


def load(
    root: Path, sets: Sequence[str] = (), flags: Mapping[str, Any] | None = None, base: Mapping[str, Any] | None = None
) -> Config:
    """Resolve the configuration of a project folder.

    Parameters
    ----------
    root : the folder that may hold a `gyral.toml`.
    sets : `section.key=value` strings in TOML syntax, as given by `--set`; a bare word is a string.
    flags : dotted key → value, from the command's own options; they win over everything, `None` is skipped.
    base : dotted key → value, of a run that is gone on with; stands above the file and below `sets`.

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
    for key, value in (base or {}).items():
        _put(tree, key, value, key)
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


def given(root: Path, sets: Sequence[str] = ()) -> frozenset[str]:
    """Dotted names of the settings that a project's file or `--set` says, be it their default: what is left may be chosen."""
    path = root / FILE_NAME
    tree = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return frozenset({*_dotted(tree), *(each.partition("=")[0].strip() for each in sets)})


def changed(config: Config) -> frozenset[str]:
    """Dotted names of the settings that are not at their default."""
    usual = _dotted(msgspec.to_builtins(Config()))
    return frozenset(key for key, value in _dotted(msgspec.to_builtins(config)).items() if value != usual.get(key))


def _dotted(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """What a tree holds by dotted name, its branches too."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found[f"{above}{key}"] = value
        if isinstance(value, dict):
            found |= _dotted(value, f"{above}{key}.")
    return found


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with other values of some settings `section.key`."""
    for dotted, value in values.items():
        section, _, key = dotted.partition(".")
        part = msgspec.structs.replace(getattr(config, section), **{key: value})
        config = msgspec.structs.replace(config, **{section: part})
    return config


def public(config: Config) -> Config:
    """The configuration as it may be kept and shown: options of other systems, some of them secrets, without their values."""
    kafka = msgspec.structs.replace(config.kafka, options=dict.fromkeys(config.kafka.options, HIDDEN))
    return msgspec.structs.replace(config, lake_options=dict.fromkeys(config.lake_options, HIDDEN), kafka=kafka)


def public_words(words: Sequence[str], hide: str = "") -> list[str]:
    """A command line as it may be kept and shown: `--set` of such options without the value, and one word hidden."""
    words = [HIDDEN if hide and word == hide else word for word in words]
    return [re.sub(r"^((?:--set=)?(?:lake_options|kafka)\b[^=]*=).*", rf"\1{HIDDEN}", word, flags=re.DOTALL) for word in words]


def describe(config: Section, above: str = "") -> list[tuple[str, Any, str]]:
    """List every setting as (dotted key, value, meaning)."""
    rows = []
    for field in msgspec.structs.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Section):
            rows += describe(value, f"{above}{field.name}.")
        else:
            rows.append((above + field.encode_name, value, _meaning(type(config), field.encode_name)))
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


NOMINAL_FLOP_PER_S = 30e9
"""Of one core; by it a budget in seconds pays for work and one in FLOP for seconds, so both plan the same everywhere."""


def budget_seconds(text: str) -> float:
    """Turn `90s`, `3m`, `1h` or `1e12flop` into seconds of one laptop core."""
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?\d+)?)\s*(s|sec|m|min|h|flop|flops)\s*", text)
    number = _float(match.group(1)) if match else None
    if match is None or number is None:
        raise ConfigError(f"`--budget {text}` is not a time or an amount of work", hint="write `90s`, `3m`, `1h` or `1e12flop`")
    unit = match.group(2)
    seconds = number * {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}.get(unit, 1 / NOMINAL_FLOP_PER_S)
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
            raise ConfigError(
                f"`{given}`: `{parent}` is not a section", hint="`gyral show config` lists the sections and settings"
            )
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
        result[field.encode_name] = kind
    return result


def _allowed(struct: type, name: str) -> list[str]:
    kind = _field_types(struct).get(name)
    return [str(each) for each in typing.get_args(kind)] if typing.get_origin(kind) is Literal else []


def _meaning(struct: type, name: str) -> str:
    for field in msgspec.structs.fields(struct):
        if field.encode_name == name and typing.get_origin(field.type) is Annotated:
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
