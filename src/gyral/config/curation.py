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
    robot_active_hours: Annotated[
        int,
        Meta(
            ge=0,
            description="a subject that is active in this many clock hours, at every hour of the day alike, is a robot; 0: off",
        ),
    ] = 168
    robot_one_object_moments: Annotated[
        int, Meta(ge=0, description="a subject with this many moments, nearly all of one object, is a robot; 0: off")
    ] = 500
    returns: Annotated[
        Literal["drop", "match", "keep"],
        Meta(description="rows of the rules `return`: `drop` them, `match` what they undo and drop that too, or `keep` them"),
    ] = "drop"
    session_gap_s: Annotated[
        float, Meta(ge=0, description="a pause of more seconds begins a session, for events that name none, 1800 say; 0: off")
    ] = 0.0
    max_per_subject: Annotated[int, Meta(ge=0, description="the newest rows kept of a subject; 0: all")] = 0
    max_per_subject_object: Annotated[
        int, Meta(ge=0, description="the newest rows kept of a subject and an object; 0: all")
    ] = 0
    split: Annotated[
        dict[str, str | Annotated[float, Meta(gt=0, lt=1)]],
        Meta(
            description='last parts by time, `{ valid = "7d", test = "7d" }`, or shares of the rows; empty: no column `split`'
        ),
    ] = {}


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
