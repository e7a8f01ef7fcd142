"""The sections of curation: what is taken, and the thresholds by which it is decided.

What a stage computes is stored; what is set here as a threshold is applied to what is stored, so it can be changed at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
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
    extractor: Annotated[
        Literal["gyral", "resiliparse"], Meta(description="what makes main text of HTML: gyral's is faster and better")
    ] = "gyral"
    text_field: Annotated[
        str, Meta(description="field or column that holds the text, `a.b` for one inside another; empty: the usual names")
    ] = ""
    url_field: Annotated[str, Meta(description="field or column that holds the address; empty: the usual names")] = ""
    language_field: Annotated[str, Meta(description="field or column that declares the language; empty: the usual names")] = ""
    probe: Annotated[
        str, Meta(description="clean text kept aside, by which each family of rules is measured; empty: none is")
    ] = ""
    probe_bytes: Annotated[int, Meta(ge=0, description="that each variant is measured with; 0: all it has")] = 10_000_000
    ablate: Annotated[
        bool, Meta(description="measure each family of rules by small models that are trained without it, `[ablate]`")
    ] = False
    max_document_bytes: Annotated[
        int, Meta(ge=1, le=1 << 30, description="a record with more bytes is rejected as `too_large`, and never unpacked")
    ] = 20 << 20
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

    keep: Annotated[
        list[str], Meta(description="ISO 639-1 codes of the languages to keep, `und` for undetermined; empty: all")
    ] = []
    min_score: Annotated[
        float, Meta(ge=0, le=1, description="a document whose language is told with less certainty is dropped")
    ] = 0.0


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
    model: Annotated[str, Meta(description="file of a linear classifier that scores texts; empty: none")] = ""
    min_score: Annotated[
        float, Meta(ge=0, le=1, description="a document that the classifier gives a lower probability of being good is dropped")
    ] = 0.5


class Dedup(Section, frozen=True):
    """What is a repetition."""

    exact: Annotated[bool, Meta(description="drop a document whose text another has, byte for byte")] = True
    paragraphs: Annotated[bool, Meta(description="cut paragraphs out that a document before has")] = True
    paragraph_chars: Annotated[int, Meta(ge=1, description="shorter paragraphs are never cut")] = 60
    max_repeated_share: Annotated[
        float, Meta(gt=0, le=1, description="a document is dropped of which more bytes repeat paragraphs, of others or its own")
    ] = 0.9
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
    semantic: Annotated[
        str, Meta(description="`module:function` of yours, texts → float32 [n, d]: what means the same is dropped; empty: off")
    ] = ""
    semantic_min_cosine: Annotated[float, Meta(gt=0, le=1, description="of two documents that mean the same")] = 0.95
    semantic_clusters: Annotated[int, Meta(ge=0, description="of k-means; 0: the root of the number of documents")] = 0
    semantic_probes: Annotated[int, Meta(ge=1, description="nearest clusters in which a document is compared")] = 3


class Privacy(Section, frozen=True):
    """What is about a person, or opens a door: replaced in the texts that are kept."""

    redact: Annotated[
        list[Literal["email", "ip", "private_ip", "phone", "card", "iban", "ssn", "secret"]],
        Meta(description="kinds that are replaced, `<EMAIL>` and so on; all are found and counted"),
    ] = msgspec.field(default_factory=lambda: ["email", "ip", "phone", "card", "iban", "secret"])
    max_found: Annotated[
        int, Meta(ge=0, description="a document with more of these kinds together is dropped; 0: no limit")
    ] = 0


class Decontaminate(Section, frozen=True):
    """Which evaluation sets must not be in the data."""

    sets: Annotated[
        dict[str, str],
        Meta(description="name of an evaluation set → its file: `.jsonl`, `.txt` (an item a line) or `.parquet`"),
    ] = {}
    max_share: Annotated[
        float, Meta(ge=0, le=1, description="a document that holds more than this share of an item is dropped")
    ] = 0.5


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

    target_bytes: Annotated[int, Meta(ge=0, description="bytes of text in one pass; 0: as many as are kept")] = 0
    temperature: Annotated[
        float, Meta(ge=1, description="a language's share follows its bytes to the power of 1 / this; 1: as it is")
    ] = 1.0
    max_epochs: Annotated[int, Meta(ge=1, le=255, description="how often a document is read in one pass at most")] = 4
    max_domain_share: Annotated[float, Meta(gt=0, le=1, description="of the bytes, what one domain may have; 1: all")] = 1.0
    rejected_copies: Annotated[
        int, Meta(ge=0, le=100, description="more copies in a pass of what answers were rejected about, one for each, at most")
    ] = 1
    seed: Annotated[int, Meta(ge=0, description="of the order, and of which documents are read once more")] = 0


class Tokens(Section, frozen=True):
    """How text becomes tokens."""

    write: Annotated[bool, Meta(description="write what is kept as tokens, too, in the order of the mix")] = False
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
