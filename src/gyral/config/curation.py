"""The sections of curation: what is taken, and the thresholds by which it is decided.

What a stage computes is stored; what is set here as a threshold is applied to what is stored, so it can be changed at once.
"""

from __future__ import annotations

from typing import Annotated

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


class Privacy(Section, frozen=True):
    """What is about a person."""


class Decontaminate(Section, frozen=True):
    """Which evaluation sets must not be in the data."""


class Images(Section, frozen=True):
    """Thresholds on pictures and their captions."""

    min_side: Annotated[int, Meta(ge=0, description="a picture whose short side has fewer pixels is dropped")] = 64
    max_aspect: Annotated[
        float,
        Meta(ge=1, description="a picture whose long side is more than this times its short side is dropped (DataComp: 3)"),
    ] = 3.0
    max_pixels: Annotated[
        int, Meta(ge=1, description="a picture of more pixels is never decoded; decoding takes up to 16 bytes a pixel")
    ] = 64_000_000
    min_blur: Annotated[
        float,
        Meta(ge=0, description="a picture whose Laplacian, reduced to a short side of 128 to 255, varies less is dropped"),
    ] = 5.0
    min_entropy: Annotated[float, Meta(ge=0, le=8, description="a picture whose grey values have fewer bits is dropped")] = 1.0
    near_bits: Annotated[int, Meta(ge=0, le=16, description="bits of 64 in which hashes of near-duplicates may differ")] = 10
    near_likeness: Annotated[
        float, Meta(ge=0, le=1, description="correlation that the thumbnails of near-duplicates must have")
    ] = 0.9
    near_colour: Annotated[
        float, Meta(ge=0, le=255, description="mean difference of colour that the thumbnails of near-duplicates may have")
    ] = 8.0
    min_caption_chars: Annotated[
        int, Meta(ge=0, description="a caption with fewer characters is dropped; an ideograph or syllable counts two")
    ] = 2
    max_caption_chars: Annotated[int, Meta(ge=1, description="a caption with more characters is dropped")] = 2_000
    min_caption_words: Annotated[
        int, Meta(ge=0, description="a caption with fewer words is dropped; two ideographs count one (DataComp: 3)")
    ] = 1
    min_caption_letters: Annotated[
        float, Meta(ge=0, le=1, description="a caption is dropped whose characters are to a smaller share letters")
    ] = 0.5
    max_caption_pictures: Annotated[
        int, Meta(ge=1, description="a caption that stands on more pictures tells nothing about them and is dropped")
    ] = 100
    file_name_captions: Annotated[bool, Meta(description="keep captions that are names of files")] = False
    boilerplate: Annotated[bool, Meta(description="keep `image of`, `stock photo` and the like in captions")] = False
    encoder: Annotated[
        str, Meta(description="`module:function` of yours: (pictures, captions) → a score a pair; empty: none")
    ] = ""
    min_score: Annotated[float | None, Meta(description="a pair that scores less is dropped; unset: none")] = None


class Mix(Section, frozen=True):
    """How much of which language and domain."""


class Tokens(Section, frozen=True):
    """How text becomes tokens."""
