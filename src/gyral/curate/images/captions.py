"""Stage `captions`: is a caption one, for any language; what is boilerplate around it; how many pictures share it.

Every character is mapped to its class by one `str.translate`, and rules look at classes. Letters are those of all scripts with
their marks, so Hindi is no punctuation; where words are not spaced they are counted by length: two ideographs or kana, or four
letters of Thai, Lao, Khmer or Burmese, are one. A caption takes about 10 µs, its picture about 1,000: this is plain Python.

`image of`, `stock photo` and the like are cut out where more is said, and drop a caption that says nothing else. What one batch
cannot know, on how many pictures a caption stands, is counted over all of them by `count_pictures`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from gyral.config import Config
from gyral.curate.stage import CUTS, Cut, Limit, Stage, add, numbers

SIGNALS = pa.schema(
    [
        pa.field("caption_chars", pa.int32()),
        pa.field("caption_words", pa.int32()),
        pa.field("caption_letters", pa.float32()),
        pa.field("caption_is_file_name", pa.bool_()),
        pa.field("caption_is_boilerplate", pa.bool_()),
        pa.field("caption_cuts", CUTS),
        pa.field("caption_hash", pa.uint64()),
    ]
)
"""What the stage adds.

| column | is |
|---|---|
| `caption_chars` | characters but blanks, an ideograph, kana or Hangul syllable counts two; 0 where there is no caption |
| `caption_words` | words; 2 ideographs or kana, or 4 letters of Thai, Lao, Khmer or Burmese count one |
| `caption_letters` | share of letters and marks of any script among characters that are no blanks |
| `caption_is_file_name` | it is the name of a file, what a camera calls a picture, an id or an address |
| `caption_is_boilerplate` | nothing is left of it but digits when boilerplate is cut out |
| `caption_cuts` | ranges of boilerplate, bytes |
| `caption_hash` | of the caption in one case, without blanks and digits |
"""

_LETTER, _DIGIT, _IDEOGRAPH, _SYLLABLE, _UNSPACED, _BLANK, _JOINER, _OTHER = "LDHKTSJP"
_RANGES = (
    (
        _IDEOGRAPH,
        ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
    ),
    (_SYLLABLE, ((0xAC00, 0xD7A3),)),
    (_UNSPACED, ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))),
)
_WORD = re.compile(r"[LDK]+(?:J[LDK]+)*")

_FILE_NAME = re.compile(
    r"""^(?: .*\.(?:jpe?g|jfif|png|gif|webp|bmp|tiff?|svg|heic|avif)(?:\?\S*)?      # anything.jpg
        | (?:https?://|www\.)\S+                                                     # an address
        | (?:img|image|dsc[nf]?|dscn|pxl|mvimg|vid|wp|scan|screen\s?shot|photo|picture|pict|p)[\s_(-]*\d[\d\s_()apmt.:-]*
        | (?=.*\d)[0-9a-f]{8,}(?:-[0-9a-f]{2,})*                                      # an id
        | [\w-]*_[\w-]*                                                              # one_word_of_a_file
        )$""",
    re.VERBOSE | re.IGNORECASE,
)
_BEGINNINGS = re.compile(
    r"""^\W*(?:(?:an?|the|this|ein|eine|une?|una?|um|uma|la|le|l’|l'|el|o|a)?\s*
        (?:(?:stock|close[\s-]?up|royalty[\s-]free|free|black\s+and\s+white|featured)\s+)*
        (?:image|photo|photograph|picture|pic|illustration|screenshot|thumbnail|close-?up
          |bild|foto|fotografie|abbildung|photographie|imagen|fotografía|fotografia|imagem|immagine|изображение|фото|фотография)
        \s+(?:of|showing|von|vom|des|der|de|du|d’|d'|di|del|della|da|do|mit)\s+
      | image\s+may\s+contain:?\s*
      | (?:изображение|фото|фотография)\s+)""",
    re.VERBOSE | re.IGNORECASE,
)
_ENDINGS = re.compile(
    r"""(?:\s*+[-–—|,:(]*+\s*+(?:(?:royalty[\s-]free\s+)?\bstock\s+(?:photo|photos|image|images|photography|illustration|vector)
        |click\s+to\s+enlarge|getty\s+images|shutterstock|\balamy)\)?
      |\s*+[-–—|,:(]++\s*+(?:free\s+)?(?:image|photo|picture|thumbnail)(?:\s+\d+)?(?:\s+of\s+\d+)?\)?
      |の(?:画像|写真)|的(?:图片|圖片|照片))+\W*+$""",
    re.VERBOSE | re.IGNORECASE,
)
_NOTHING_ELSE = re.compile(
    r"""^\W*(?:(?:no|an?|the|this|default|featured|image|img|photo|photograph|picture|pic|thumbnail|thumb|placeholder|untitled|loading
        |description|available|alt|text|caption|icon|logo|banner|avatar|cover|blank|null|none|undefined|nan|of|not|found|click|to|enlarge
        |here|for|larger|stock|bild|foto|imagen|imagem|immagine|изображение|фото|図|图片|圖片|画像|写真|照片)\b\W*+|\d++\W*+)*+$""",
    re.VERBOSE | re.IGNORECASE,
)
_FOLDED = re.compile(r"[\s\d]+")


class _Classes(dict[int, str]):
    """Code points and their class, told once each."""

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        ranged = (kind for kind, ranges in _RANGES if any(first <= code <= last for first, last in ranges))
        if category[0] in "LM":
            kind = next(ranged, _LETTER)
        elif chr(code) in "'’-‐":
            kind = _JOINER
        else:
            kind = _DIGIT if category[0] == "N" else _BLANK if category[0] in "ZC" else _OTHER
        self[code] = kind
        return kind


_CLASSES = _Classes()


class Caption(NamedTuple):
    """What is told of a caption, in the order of `SIGNALS`."""

    chars: int
    words: int
    letters: float
    is_file_name: bool
    is_boilerplate: bool
    cuts: list[int]
    hash: int


def describe(text: str) -> Caption:
    """Tell what a caption is like."""
    import xxhash

    classes = text.translate(_CLASSES)
    wide, unspaced, syllables = classes.count(_IDEOGRAPH), classes.count(_UNSPACED), classes.count(_SYLLABLE)
    chars = len(classes) - classes.count(_BLANK)
    words = len(_WORD.findall(classes)) + -(-wide // 2) + -(-unspaced // 4)
    letters = (classes.count(_LETTER) + wide + unspaced + syllables) / chars if chars else 0.0
    short = text[:1000].strip()  # long ones are neither; patterns stay quick on anything
    begins, ends = _BEGINNINGS.search(text[:200]), _ENDINGS.search(text, max(len(text) - 200, 0))
    is_boilerplate = len(text) < 200 and bool(_NOTHING_ELSE.match(short))
    cuts: list[int] = []
    if not is_boilerplate:
        first, last = begins.end() if begins else 0, ends.start() if ends else len(text)
        if first < last and text[first:last].strip():
            cuts = [0, _bytes(text[:first])] if first else []
            cuts += [_bytes(text[:last]), _bytes(text)] if last < len(text) else []
        else:
            is_boilerplate = bool(begins or ends)
    folded = _FOLDED.sub("", text.casefold()).encode("utf-8", "replace")
    is_file_name = len(text) < 1000 and bool(_FILE_NAME.match(short))
    return Caption(
        chars + wide + syllables, words, letters, is_file_name, is_boilerplate, cuts, xxhash.xxh3_64_intdigest(folded)
    )


_NO_CAPTION: tuple[Any, ...] = (0, 0, 0.0, False, False, [], None)


@dataclass(frozen=True)
class Captions(Stage):
    """Adds `SIGNALS` to pictures with captions."""

    name: ClassVar[str] = "captions"
    version: ClassVar[int] = 1

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        rejected, media = batch.column("rejected").to_pylist(), batch.column("media").to_pylist()
        rows: list[tuple[Any, ...]] = []
        for reason, kind, text in zip(rejected, media, batch.column("text").to_pylist(), strict=True):
            if reason is not None or kind != "image":
                rows.append((None,) * len(SIGNALS))
            else:
                rows.append(describe(text) if text else _NO_CAPTION)
        columns = zip(*rows, strict=True) if rows else [[]] * len(SIGNALS)
        return add(batch, {field.name: pa.array(column, field.type) for field, column in zip(SIGNALS, columns, strict=True)})

    def limits(self, config: Config) -> Sequence[Limit]:
        images = config.images
        is_name, is_boilerplate = "caption_is_file_name", "caption_is_boilerplate"
        return (
            _limit("caption_file_name", "images.file_name_captions", is_name, ">", float(images.file_name_captions)),
            _limit("caption_boilerplate", "images.boilerplate", is_boilerplate, ">", float(images.boilerplate)),
            _limit("caption_short", "images.min_caption_chars", "caption_chars", "<", images.min_caption_chars),
            _limit("caption_long", "images.max_caption_chars", "caption_chars", ">", images.max_caption_chars),
            _limit("caption_few_words", "images.min_caption_words", "caption_words", "<", images.min_caption_words),
            _limit("caption_few_letters", "images.min_caption_letters", "caption_letters", "<", images.min_caption_letters),
        )

    def cuts(self, config: Config) -> Sequence[Cut]:
        return () if config.images.boilerplate else (Cut("caption_cuts", "images.boilerplate", ""),)


def common(config: Config) -> Limit:
    """The limit on `caption_pictures`, a column that `count_pictures` makes of all rows together."""
    return _limit("caption_common", "images.max_caption_pictures", "caption_pictures", ">", config.images.max_caption_pictures)


def count_pictures(caption_hashes: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """On how many different pictures the caption of a row stands.

    Parameters
    ----------
    caption_hashes : uint64 [rows], `caption_hash`.
    pictures : int64 [rows], which picture a row has, as told by `near_images.pictures`.

    Returns
    -------
    int64 [rows].
    """
    order = np.lexsort((pictures, caption_hashes))
    captions, shown = caption_hashes[order], pictures[order]
    is_caption = np.ones(len(order), bool)
    is_caption[1:] = captions[1:] != captions[:-1]
    is_pair = is_caption.copy()
    is_pair[1:] |= shown[1:] != shown[:-1]
    caption = np.cumsum(is_caption) - 1
    counts = np.empty(len(order), np.int64)
    counts[order] = np.bincount(caption, is_pair).astype(np.int64)[caption] if len(order) else 0
    return counts


def _limit(reason: str, rule: str, column: str, op: Any, threshold: float) -> Limit:
    return Limit(reason, rule, (column,), lambda columns: numbers(columns, column), op, threshold)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
