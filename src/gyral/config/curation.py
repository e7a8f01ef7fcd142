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


Share = Annotated[float, Meta(ge=0, le=1)]


class Gopher(Section, frozen=True):
    """The rules of Gopher (Rae et al. 2021, table A1 and section A.1.1); 0 switches one off."""

    enabled: Annotated[bool, Meta(description="apply them")] = True
    dup_line_frac: Annotated[Share, Meta(description="repeated lines of all")] = 0.3
    dup_para_frac: Annotated[Share, Meta(description="repeated paragraphs of all")] = 0.3
    dup_line_char_frac: Annotated[Share, Meta(description="characters in repeated lines")] = 0.2
    dup_para_char_frac: Annotated[Share, Meta(description="characters in repeated paragraphs")] = 0.2
    top_n_grams: Annotated[
        tuple[tuple[Literal[2, 3, 4], Share], ...], Meta(description="[n, share of the characters in the most frequent n-gram]")
    ] = ((2, 0.2), (3, 0.18), (4, 0.16))
    dup_n_grams: Annotated[
        tuple[tuple[Literal[5, 6, 7, 8, 9, 10], Share], ...], Meta(description="[n, share of the characters in repeated ones]")
    ] = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
    min_words: Annotated[int, Meta(ge=0, description="a document with fewer words is dropped")] = 50
    max_words: Annotated[int, Meta(ge=0, description="a document with more words is dropped")] = 100_000
    min_avg_word_length: Annotated[float, Meta(ge=0, description="characters a word on average, at least")] = 3
    max_avg_word_length: Annotated[float, Meta(ge=0, description="characters a word on average, at most")] = 10
    max_symbol_word_ratio: Annotated[float, Meta(ge=0, description="number signs, or ellipses, a word")] = 0.1
    max_bullet_lines_ratio: Annotated[Share, Meta(description="lines that begin with a bullet")] = 0.9
    max_ellipsis_lines_ratio: Annotated[Share, Meta(description="lines that end with an ellipsis")] = 0.3
    max_non_alpha_words_ratio: Annotated[Share, Meta(description="words with a letter, at least (datatrove's name)")] = 0.8
    min_stop_words: Annotated[int, Meta(ge=0, description="different stop words, at least")] = 2


class C4(Section, frozen=True):
    """The rules of C4 (Raffel et al. 2020, section 2.2): lines that are cut, then documents that are dropped."""

    enabled: Annotated[bool, Meta(description="apply them, and cut lines")] = True
    filter_no_terminal_punct: Annotated[
        bool, Meta(description="cut lines that end without a terminal mark (C4 does, FineWeb does not)")
    ] = False
    remove_citations: Annotated[bool, Meta(description="look at lines without `[1]`, `[edit]`, `[citation needed]`")] = True
    min_num_sentences: Annotated[int, Meta(ge=-1, description="sentences of the lines left, at least")] = 5
    min_words_per_line: Annotated[int, Meta(ge=-1, description="cut lines with fewer words")] = 3
    max_word_length: Annotated[int, Meta(ge=-1, description="cut lines with a longer word; -1: none")] = 1000
    filter_lorem_ipsum: Annotated[bool, Meta(description="drop documents with `lorem ipsum`")] = True
    filter_javascript: Annotated[bool, Meta(description="cut lines with `javascript`")] = True
    filter_curly_bracket: Annotated[bool, Meta(description="drop documents with `{`")] = True
    filter_policy: Annotated[bool, Meta(description="cut lines about cookies and terms of use")] = True


class FineWeb(Section, frozen=True):
    """The rules that FineWeb added (Penedo et al. 2024, section 3.6), on what C4's cuts leave."""

    enabled: Annotated[bool, Meta(description="apply them")] = True
    line_punct_thr: Annotated[Share, Meta(description="lines that end with a terminal mark, at least")] = 0.12
    line_punct_exclude_zero: Annotated[bool, Meta(description="keep documents where no line does")] = False
    short_line_thr: Annotated[Share, Meta(description="short lines, at most")] = 0.67
    short_line_length: Annotated[int, Meta(ge=0, description="characters of a short line, at most")] = 30
    char_duplicates_ratio: Annotated[Share, Meta(description="characters in repeated lines, at most")] = 0.01
    new_line_ratio: Annotated[float, Meta(ge=0, description="line feeds a word, at most")] = 0.3


class Quality(Section, frozen=True):
    """Thresholds on what a document's text is like."""

    gopher: Gopher = Gopher()
    c4: C4 = C4()
    fineweb: FineWeb = FineWeb()
    stop_words: Annotated[
        dict[str, list[str]], Meta(description="language (ISO 639-1) → words that its texts have; English has Gopher's")
    ] = {}


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
