"""The sections of curation: what is taken, and the thresholds by which it is decided.

What a stage computes is stored; what is set here as a threshold is applied to what is stored, so it can be changed at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from gyral.config.sections import NAME, Feature, Rule, Section


class Curate(Section, frozen=True):
    """Lake or files → Dataset."""

    source: Annotated[
        str,
        Meta(
            description="documents or pictures: a file, a folder, or a package, `apt:NAME`, `npm:…`; empty: events of the lake"
        ),
    ] = ""
    recipe: Annotated[
        str,
        Meta(
            description="`text`, `pairs`, `images`, or a function of yours, `module:function`; empty: by what the source holds"
        ),
    ] = ""
    stages: Annotated[list[str], Meta(description="stages in order, instead of those of the recipe")] = []
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


class Language(Section, frozen=True):
    """Which languages a document may have."""

    keep: Annotated[list[str], Meta(description="ISO 639-1 codes of the languages to keep; empty: all")] = []


class Gopher(Section, frozen=True):
    """The rules of Gopher (Rae et al. 2021, table A1 and section A.1.1)."""

    min_words: Annotated[int, Meta(ge=0, description="a document with fewer words is dropped")] = 50


class C4(Section, frozen=True):
    """The rules of C4 (Raffel et al. 2020, section 2.2)."""


class FineWeb(Section, frozen=True):
    """The rules that FineWeb added (Penedo et al. 2024, section 3.6)."""


class Quality(Section, frozen=True):
    """Thresholds on what a document's text is like."""

    gopher: Gopher = Gopher()
    c4: C4 = C4()
    fineweb: FineWeb = FineWeb()


class Dedup(Section, frozen=True):
    """What is a repetition."""

    near: Annotated[bool, Meta(description="find near-duplicates, verify them, keep the best")] = True
    jaccard: Annotated[
        float, Meta(gt=0, le=1, description="a document goes whose Jaccard of shingles with a kept one is this or more")
    ] = 0.8
    floor: Annotated[
        float, Meta(gt=0, le=1, description="pairs from this Jaccard on are stored; `jaccard` can go down to it")
    ] = 0.5
    bands: Annotated[int, Meta(ge=1, le=256, description="bands of MinHash; a pair is verified if one is equal")] = 14
    rows: Annotated[int, Meta(ge=1, le=64, description="hashes a band")] = 8
    shingle_words: Annotated[int, Meta(ge=1, le=63, description="words of a shingle")] = 5
    shingle_chars: Annotated[
        int, Meta(ge=1, le=31, description="Han characters of a shingle; twice as many of kana, Thai, Khmer and the like")
    ] = 6
    compatible: Annotated[
        Literal["", "datatrove"], Meta(description="`datatrove`: its normalisation and hashes, to compare rates of duplicates")
    ] = ""
    bucket: Annotated[
        int,
        Meta(ge=8, le=10_000, description="of more documents that share a band, each meets only the longest and the nearest"),
    ] = 64


class Privacy(Section, frozen=True):
    """What is about a person."""


class Decontaminate(Section, frozen=True):
    """Which evaluation sets must not be in the data."""


class Images(Section, frozen=True):
    """Thresholds on pictures and their captions."""


class Mix(Section, frozen=True):
    """How much of which language and domain."""


class Tokens(Section, frozen=True):
    """How text becomes tokens."""
