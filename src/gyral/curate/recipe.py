"""Recipes: which stages documents go through, by what they are.

A recipe is a list of stages. `curate.stages` names others, in TOML; `curate.recipe = "module:function"` is a function
`(config) -> list[Stage]`. A stage of yours is one more name: `module:function`, or an entry point of the kind `stage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gyral import plugins
from gyral.config import Config
from gyral.curate.stage import Stage
from gyral.errors import ConfigError

RECIPES: dict[str, Sequence[str]] = {
    "text": (
        "extract", "repair", "digest", "language", "statistics", "classifier", "privacy", "contamination", "minhash",
        "paragraphs",
    ),
    "pairs": ("pixels", "repair", "digest", "language", "captions", "privacy", "score"),
    "images": ("pixels", "digest"),
}  # fmt: skip


def stages_of(kind: str, config: Config) -> list[Stage]:
    """The stages for documents of a kind, as the configuration has them.

    Raises
    ------
    ConfigError : a name is no stage, or a function of yours cannot be imported or makes none.
    """
    named = config.curate.recipe
    if ":" in named:
        return [_checked(each, named) for each in plugins.load(named, "curate.recipe")(config)]
    if named and named not in RECIPES:
        hint = f"one of {', '.join(f'`{each}`' for each in RECIPES)}, or `module:function`"
        raise ConfigError(f"`{named}` is not a recipe", where="curate.recipe", hint=hint)
    made = []
    for name in config.curate.stages or RECIPES[named or kind]:
        make = plugins.load(name, "curate.stages") if ":" in name else plugins.find("stage", name)
        stage = make(config)
        if stage is not None:
            made.append(_checked(stage, name))
    return made


def extract(config: Config) -> Stage:
    from gyral.curate.text.extract import Extract

    return Extract(config.curate.extractor)


def repair(config: Config) -> Stage:
    from gyral.curate.text.repair import Repair

    return Repair()


def digest(config: Config) -> Stage:
    from gyral.curate.text.digest import Digest

    return Digest()


def language(config: Config) -> Stage:
    from gyral.curate.text.language import Language

    return Language()


def statistics(config: Config) -> Stage:
    from gyral.curate.text.statistics import Statistics

    return Statistics.of(config)


def classifier(config: Config) -> Stage | None:
    if not config.quality.model:
        return None
    from gyral.curate.text.quality import Classifier

    return Classifier.of(config.quality.model)


def contamination(config: Config) -> Stage | None:
    if not config.decontaminate.sets:
        return None
    from gyral.curate.text.contamination import Contamination
    from gyral.packages.fetch import cache_folder

    return Contamination.of(config.decontaminate.sets, Path(), cache_folder() / "evaluation-sets")


def privacy(config: Config) -> Stage:
    from gyral.curate.text.privacy import Privacy

    return Privacy()


def minhash(config: Config) -> Stage:
    from gyral.curate.near.minhash import MinHash

    return MinHash.of(config.dedup)


def paragraphs(config: Config) -> Stage:
    from gyral.curate.text.paragraphs import Paragraphs

    return Paragraphs(config.dedup.paragraph_chars)


def pixels(config: Config) -> Stage:
    from gyral.curate.images.pixels import Pixels

    return Pixels(config.images.max_pixels)


def captions(config: Config) -> Stage:
    from gyral.curate.images.captions import Captions

    return Captions()


def score(config: Config) -> Stage | None:
    if not config.images.encoder:
        return None
    from gyral.curate.images.score import Score

    return Score(config.images.encoder, max_pixels=config.images.max_pixels)


def _checked(stage: Any, name: str) -> Stage:
    if not isinstance(stage, Stage):
        raise ConfigError(
            f"`{name}` made a {type(stage).__name__}, which is no stage",
            where="[curate]",
            hint="return a frozen dataclass that extends `gyral.curate.stage.Stage`",
        )
    return stage
