"""What is done between a recommender's scores and its answer, as data: `[rerank]`. Without it answers are the model's own."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from gyral.config.sections import Section, Text

Share = Annotated[float, Meta(ge=0, le=1)]


class Cap(Section, frozen=True):
    """At most `most` of `within` neighbouring places have the same value of a column of `objects`; 0: of all places."""

    column: Text
    most: Annotated[int, Meta(ge=1)]
    within: Annotated[int, Meta(ge=0)] = 0


class Pin(Section, frozen=True):
    """An object that is always at a place, from 1 on, of answers that are so long."""

    object: Text
    place: Annotated[int, Meta(ge=1, le=1_000)]


class Block(Section, frozen=True):
    """Objects that are never shown: those with this value of a column; the column `object` is their name."""

    column: Text
    value: str


class Rerank(Section, frozen=True):
    """Of candidates, an answer."""

    candidates: Annotated[
        dict[Literal["model", "similar", "popular", "fresh"], Annotated[int, Meta(ge=1, le=10_000)]],
        Meta(description="source → most it brings; `similar` to what was met, `fresh` by `added`; none: 500 of `model`"),
    ] = {}
    objects: Annotated[
        str, Meta(description="file of what is known of objects, CSV or Parquet: `object`, `added` (a time), any other columns")
    ] = ""
    diversity: Annotated[float, Meta(ge=0, lt=1, description="0: by score alone; towards 1 by what the places above lack")] = (
        0.0
    )
    diversity_by: Annotated[
        Literal["mmr", "dpp"], Meta(description="`mmr`: the nearest object above counts; `dpp`: what all above span")
    ] = "mmr"
    fresh: Annotated[
        float, Meta(ge=0, le=10, description="added to a score (0 to 1 among candidates) of what is new, halving with its age")
    ] = 0.0
    fresh_half_life_days: Annotated[float, Meta(gt=0, description="in which what is new counts half as much")] = 14.0
    explore: Annotated[
        Share, Meta(description="chance of a place to be drawn by a softmax of the scores; propensities are logged")
    ] = 0.0
    temperature: Annotated[float, Meta(gt=0, le=100, description="of that softmax")] = 0.1
    no_repeats: Annotated[bool, Meta(description="never show what a subject has met")] = False
    caps: Annotated[list[Cap], Meta(description="`column`, `most`, `within`: so many neighbouring places with one value")] = []
    pins: Annotated[list[Pin], Meta(description="`object`, `place`: always there, in answers that are so long")] = []
    blocks: Annotated[list[Block], Meta(description="`column`, `value`: never shown; the column `object` is a name")] = []
    because: Annotated[
        int, Meta(ge=0, le=20, description="objects met before that an answer names as its reason; 0: it gives no reasons")
    ] = 0

    @property
    def sources(self) -> dict[str, int]:
        """Source → how many candidates it may bring."""
        return {str(name): most for name, most in self.candidates.items()} or {"model": 500}

    @property
    def is_on(self) -> bool:
        """Whether anything was set."""
        return self != Rerank()
