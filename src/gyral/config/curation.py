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

    semantic: Annotated[
        str, Meta(description="`module:function` of yours, texts → float32 [n, d]: what means the same is dropped; empty: off")
    ] = ""
    semantic_min_cosine: Annotated[float, Meta(gt=0, le=1, description="of two documents that mean the same")] = 0.95
    semantic_clusters: Annotated[int, Meta(ge=0, description="of k-means; 0: the root of the number of documents")] = 0
    semantic_probes: Annotated[int, Meta(ge=1, description="nearest clusters in which a document is compared")] = 3


class Privacy(Section, frozen=True):
    """What is about a person."""


class Decontaminate(Section, frozen=True):
    """Which evaluation sets must not be in the data."""


class Images(Section, frozen=True):
    """Thresholds on pictures and their captions."""


class Mix(Section, frozen=True):
    """How much of which language and domain."""

    target_bytes: Annotated[int, Meta(ge=0, description="bytes of text in one pass; 0: as many as are kept")] = 0
    temperature: Annotated[
        float, Meta(ge=1, description="a language's share follows its bytes to the power of 1 / this; 1: as it is")
    ] = 1.0
    max_epochs: Annotated[int, Meta(ge=1, le=255, description="how often a document is read in one pass at most")] = 4
    max_domain_share: Annotated[float, Meta(gt=0, le=1, description="of the bytes, what one domain may have; 1: all")] = 1.0
    seed: Annotated[int, Meta(ge=0, description="of the order, and of which documents are read once more")] = 0


class Tokens(Section, frozen=True):
    """How text becomes tokens."""

    tokenizer: Annotated[str, Meta(description="a `tokenizer.json`; empty: one is trained")] = ""
    vocab_size: Annotated[int, Meta(ge=257, le=1 << 22, description="of a tokenizer that is trained")] = 32_768
    eos: Annotated[str, Meta(min_length=1, description="token that ends a document")] = "<|endoftext|>"
    special: Annotated[list[str], Meta(description="more tokens that no text is made of, of a trained tokenizer")] = []
    train_bytes: Annotated[int, Meta(ge=1, description="of text that a tokenizer is trained on, drawn by the mix")] = 256 << 20
    packing: Annotated[
        Literal["concatenated", "best_fit"],
        Meta(description="one stream of tokens, cut anywhere; or whole documents in sequences, the rest padded"),
    ] = "concatenated"
    sequence_tokens: Annotated[int, Meta(ge=2, description="that a packed sequence trains, so it has one more")] = 2_048
    shard_tokens: Annotated[int, Meta(ge=1_024, le=1 << 31, description="in a file of tokens, about")] = 1 << 25
