"""The hooks: how a project adds to gyral without touching it.

| kind | an object of it is |
|---|---|
| `source` | a function `open(uri, root, note) -> Source` that reads a place events come from, by URI scheme |
| `layout` | a `Layout`: the column names, types and dirt of one well-known file |
| `family` | a `Family`: how one kind of model is stored, loaded and asked |
| `trainer` | a function `fit(dataset, …) -> Fitted` that trains the family of the same name |
| `task` | a function `(dataset, config) -> Task`: what a neural model is to learn; its name is `FAMILY` or `FAMILY/TASK` |
| `lesson` | a function `(task, teacher, temperature) -> Lesson`: how a model teaches the task `FAMILY/TASK` |
| `compressor` | a function `(weights, matrices) -> weights` that makes the named matrices smaller |
| `format` | a `gyral.compress.export.base.Format`: how a model is written for other programs, and read back to compare |
| `texts` | a function `(rows, config, note) -> texts`: what is learned from events of this kind that have just come in |
| `stage` | a function `(config) -> Stage`, or None where it has nothing to do: signals of documents |
| `engine` | an `Engine`: where a map of pure functions runs |
| `page` | a `gyral.dash.plugged.Page`: what a page of `gyral dash` tells, and how it is drawn |

A compressor with an attribute `needs_calibration` is given a `gyral.model.quant.calibration.Calibration` as well. A name that
ends in `*`, `prune-*`, stands for all that begin so: its object is called with the rest, and gives what is meant.

A package adds one by an entry point in the group `gyral.<kind>`; a script by `register(kind, name, object)`. Built-in objects
are named by import path, so looking up a source loads no trainer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from gyral.errors import OPTIONAL, ConfigError, GyralError, UsageError, did_you_mean

KINDS = ("source", "layout", "family", "trainer", "task", "lesson", "compressor", "format", "texts", "stage", "engine", "page")

_BUILTIN: dict[str, dict[str, str]] = {
    "source": {
        "file": "gyral.ingest.sources.file:open_source",
        "pip": "gyral.ingest.sources.package:open_source",
        "npm": "gyral.ingest.sources.package:open_source",
        "apt": "gyral.ingest.sources.package:open_source",
    },
    "layout": {
        "online_retail": "gyral.event.layout:ONLINE_RETAIL",
        "recbole": "gyral.event.layout:RECBOLE",
        "envelope": "gyral.event.layout:ENVELOPE",
    },
    "family": {
        "recommender": "gyral.model.family:RECOMMENDER",
        "lm": "gyral.model.lm:LM",
        "vision": "gyral.model.vision:VISION",
        "live": "gyral.model.live.served:LIVE",
    },
    "trainer": {
        "recommender": "gyral.train.recommender:fit",
        "lm": "gyral.train.neural:fit",
        "vision": "gyral.train.neural:fit",
    },
    "task": {
        "lm": "gyral.train.open_lm:next_token",
        "lm/next_token": "gyral.train.open_lm:next_token",
        "vision": "gyral.train.open_vision:contrastive",
        "vision/contrastive": "gyral.train.open_vision:contrastive",
        "vision/masked": "gyral.train.open_vision:masked",
        "vision/self_distilled": "gyral.train.open_vision:self_distilled",
        "recommender/sequence": "gyral.train.open_recommender:sequence",
        "recommender/two_tower": "gyral.train.open_recommender:two_tower",
        "recommender/ranking": "gyral.train.open_recommender:ranking",
        "recommender/history": "gyral.train.open_recommender:history",
    },
    "lesson": {
        "lm/next_token": "gyral.model.lessons.language:next_token",
        "vision/contrastive": "gyral.model.lessons.pictures:contrastive",
        "vision/masked": "gyral.model.lessons.pictures:masked",
        "vision/self_distilled": "gyral.model.lessons.pictures:self_distilled",
        "recommender/sequence": "gyral.model.lessons.recommending:sequence",
        "recommender/two_tower": "gyral.model.lessons.recommending:two_tower",
        "recommender/ranking": "gyral.model.lessons.recommending:ranking",
    },
    "compressor": {
        "int8": "gyral.compress.quantize:int8",
        "int8-smooth": "gyral.compress.nets:INT8_SMOOTH",
        "int4": "gyral.compress.nets:INT4",
        "int4-mixed": "gyral.compress.nets:INT4_MIXED",
        "int4-rtn": "gyral.compress.nets:int4_rtn",
        "int4-awq": "gyral.compress.nets:INT4_AWQ",
        "bf16": "gyral.compress.nets:bf16",
        "prune-*": "gyral.compress.prune:prune",
        "2:4": "gyral.compress.prune:TWO_OF_FOUR",
        "2:4-wanda": "gyral.compress.prune:TWO_OF_FOUR_WANDA",
        "2:4-magnitude": "gyral.compress.prune:TWO_OF_FOUR_MAGNITUDE",
        "rank-*": "gyral.compress.prune:rank",
        "rows-int8": "gyral.compress.rows:rows_int8",
        "rows-int4": "gyral.compress.rows:rows_int4",
        "rows-pq*": "gyral.compress.rows:rows_pq",
        "rows-hash-*": "gyral.compress.rows:rows_hash",
    },
    "format": {
        "gguf-f16": "gyral.compress.export.gguf:F16",
        "gguf-q8_0": "gyral.compress.export.gguf:Q8_0",
        "gguf-q4_0": "gyral.compress.export.gguf:Q4_0",
        "gguf-q4_1": "gyral.compress.export.gguf:Q4_1",
        "hf": "gyral.compress.export.hf:HF",
        "onnx": "gyral.compress.export.traced:ONNX",
        "torch": "gyral.compress.export.traced:TORCH",
    },
    "texts": {"document": "gyral.curate.arriving:texts"},
    "stage": {
        name: f"gyral.curate.recipe:{name}"
        for name in (
            "extract",
            "repair",
            "digest",
            "language",
            "statistics",
            "classifier",
            "privacy",
            "contamination",
            "minhash",
            "paragraphs",
            "pixels",
            "captions",
            "score",
        )
    },
    "engine": {"local": "gyral.engine.local:LocalEngine", "ray": "gyral.engine.ray:RayEngine"},
    "page": {},  # gyral's own are `gyral.dash.pages`
}
_registered: dict[tuple[str, str], Any] = {}


def register(kind: str, name: str, plugin: Any) -> None:
    """Add an object under a name; it wins over a built-in of the same name."""
    if kind not in KINDS:
        raise UsageError(f"unknown plug-in kind `{kind}`", hint=did_you_mean(kind, KINDS))
    _registered[kind, name] = plugin


def names(kind: str) -> list[str]:
    """All names known for a kind: built in, installed and registered."""
    installed = (point.name for point in entry_points(group=f"gyral.{kind}"))
    registered = (name for known, name in _registered if known == kind)
    return sorted({*_BUILTIN[kind], *installed, *registered})


def packages() -> dict[str, list[tuple[str, str]]]:
    """Installed packages that bring hooks: name of the package → kinds and names."""
    found: dict[str, list[tuple[str, str]]] = {}
    for kind in KINDS:
        for point in entry_points(group=f"gyral.{kind}"):
            found.setdefault(point.dist.name if point.dist is not None else point.module, []).append((kind, point.name))
    return found


def check(kind: str, name: str, *others: str) -> None:
    """Refuse a name nobody registered, without loading anything.

    Parameters
    ----------
    others : further kinds that it may be of.

    Raises
    ------
    UsageError : nothing has this name; the hint lists those that exist.
    """
    known = sorted(each for every in (kind, *others) for each in names(every))
    if name not in known and not _family_of(name, known):
        raise UsageError(f"unknown {kind} `{name}`", hint=did_you_mean(name, known))


def find(kind: str, name: str) -> Any:
    """Return the object registered under a name.

    Raises
    ------
    UsageError : nothing has this name; the hint lists those that exist. Or a package has it and its module cannot be imported.
    """
    if (kind, name) in _registered:
        return _registered[kind, name]
    for point in entry_points(group=f"gyral.{kind}", name=name):
        return _loaded(kind, point)
    check(kind, name)
    if name in _BUILTIN[kind]:
        return _imported(_BUILTIN[kind][name])
    family = _family_of(name, names(kind))
    return find(kind, family)(name[len(family) - 1 :])


def _loaded(kind: str, point: EntryPoint) -> Any:
    """What an entry point names. An extra of gyral's that is missing is told as such, all else as the fault of the package."""
    try:
        return point.load()
    except (GyralError, ImportError, AttributeError) as error:
        if isinstance(error, GyralError) or str(getattr(error, "name", "")).partition(".")[0] in OPTIONAL:
            raise
        package = point.dist.name if point.dist is not None else point.module
        raise UsageError(
            f"the {kind} `{point.name}` of the package `{package}` cannot be loaded",
            where=point.value,
            why=str(error),
            hint=f"install the package again, or take it away: `pip uninstall {package}`",
        ) from error


def _family_of(name: str, known: list[str]) -> str:
    """The longest name ending in `*` that a name begins with; empty: none."""
    fit = (each for each in known if each.endswith("*") and name.startswith(each[:-1]) and not name.endswith("*"))
    return max(fit, key=len, default="")


def load(path: str, setting: str) -> Callable[..., Any]:
    """The function of the user's that a setting names, `module:function`.

    Raises
    ------
    ConfigError : it cannot be imported, or is none.
    """
    try:
        found = _imported(path)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "write `module:function`; the module must be importable: installed, or in a folder of PYTHONPATH"
        raise ConfigError(f"`{path}` cannot be imported", where=setting, why=str(error), hint=hint) from None
    if not callable(found):
        raise ConfigError(f"`{path}` is no function", where=setting, hint="write it as `module:function`")
    function: Callable[..., Any] = found
    return function


def _imported(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
