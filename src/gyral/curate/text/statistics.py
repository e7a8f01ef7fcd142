"""The stage that counts in one reading all that the rules of Gopher, C4 and FineWeb decide by; `heuristics` has their limits.

The bytes are read once, in blocks that stay in the cache, and forty integers a text are stored: 180 bytes for what otherwise
would be tokenised four times (datatrove's filters each do). Thresholds can be changed without the text.

Words are those of spaCy's English tokenizer, which datatrove uses for English, but for its rarest rules. A character of a
script without spaces is a word by itself; what that means for each rule says `heuristics`.

C4 takes lines out before it counts sentences, so it is also decided here which those are: they are cuts, and FineWeb's counts
are of what they leave, as in FineWeb's own pipeline. With `quality.c4.enabled = false` nothing is cut and they are of the whole
text. Blank lines stay, where datatrove's C4 drops them, as they tell paragraphs apart; they are not counted as left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.config import Config
from gyral.curate.stage import CUTS, Cut, Limit, Stage, add, utf8
from gyral.curate.text import heuristics, special
from gyral.curate.text.counts import COUNTS, MAX_LINES, MAX_WORDS
from gyral.errors import ConfigError

BLOCK_BYTES = 256 << 10
"""Bytes of texts that are read before their n-grams are counted, unless one text is larger: they stay in the cache."""
CUT_LINES = "cut_c4_lines"
_PAD = 64
_WORD = (1 << 64) - 1
_MIX, _MIX_2, _LENGTH = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xA24BAED4963EE407
_MAX_STOP_WORDS = 64
_UNITS = (
    "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h "
    "kmh mph hPa Pa mbar mb MB kb KB gb GB tb TB T G M K км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² "
    "мм³ нм кг г мг кПа Па Кб КБ кб Мб МБ мб Гб ГБ гб Тб ТБ тб"
)


@dataclass(frozen=True)
class Statistics(Stage):
    """Adds the columns of `counts.COUNTS`, int32, and the lines that C4 cuts, `cut_c4_lines`; null where there is no text.

    Stop words are those of the language in the column `language`; where that is null, or has no list, they are not counted and
    the rule drops nothing. Without such a column every text counts as English.

    Source: Rae et al. 2021, table A1 and section A.1.1; Raffel et al. 2020, section 2.2; Penedo et al. 2024, section 3.6.
    """

    name: ClassVar[str] = "statistics"

    cut_lines: bool = True
    filter_no_terminal_punct: bool = False
    min_words_per_line: int = 3
    max_word_length: int = 1000
    remove_citations: bool = True
    filter_javascript: bool = True
    filter_policy: bool = True
    short_line_length: int = 30
    stop_words: tuple[tuple[str, tuple[str, ...]], ...] = (("en", heuristics.STOP_WORDS),)

    @classmethod
    def of(cls, config: Config) -> Self:
        """The stage with the settings of `quality`."""
        c4, words = config.quality.c4, {"en": list(heuristics.STOP_WORDS), **config.quality.stop_words}
        for language, listed in words.items():
            if len(listed) > _MAX_STOP_WORDS:
                raise ConfigError(
                    f"{len(listed)} stop words for `{language}`",
                    where=f"quality.stop_words.{language}",
                    why=f"at most {_MAX_STOP_WORDS} are counted",
                    hint="give the most frequent ones: a text needs two of them",
                )
        return cls(
            cut_lines=c4.enabled,
            filter_no_terminal_punct=c4.filter_no_terminal_punct,
            min_words_per_line=c4.min_words_per_line,
            max_word_length=c4.max_word_length,
            remove_citations=c4.remove_citations,
            filter_javascript=c4.filter_javascript,
            filter_policy=c4.filter_policy,
            short_line_length=config.quality.fineweb.short_line_length,
            stop_words=tuple((language, tuple(listed)) for language, listed in sorted(words.items())),
        )

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = batch.column("text")
        counts = np.zeros((len(texts), len(COUNTS)), np.int64)
        languages = self._languages(batch)
        cuts, ends = self._count(texts, languages, counts)
        missing = texts.is_null().to_numpy(zero_copy_only=False)
        columns: dict[str, Any] = {}
        for place, name in enumerate(COUNTS):
            unknown = missing | (languages < 0) if name == "num_stop_words" else missing
            columns[name] = pa.array(counts[:, place].astype(np.int32), mask=unknown)
        if self.cut_lines:
            columns[CUT_LINES] = pa.ListArray.from_arrays(ends, cuts, type=CUTS, mask=pa.array(missing))
        return add(batch, columns)

    def limits(self, config: Config) -> list[Limit]:
        return heuristics.limits(config.quality)

    def cuts(self, config: Config) -> list[Cut]:
        return [Cut(CUT_LINES, "quality.c4", "")] if self.cut_lines else []

    def _languages(self, batch: pa.RecordBatch) -> np.ndarray:
        """The list of stop words of each text, int64 [n]; -1: none."""
        known = [language for language, _ in self.stop_words]
        if "language" not in batch.schema.names:
            return np.full(batch.num_rows, known.index("en") if "en" in known else -1)
        found = pc.index_in(batch.column("language").cast(pa.string()), value_set=pa.array(known, pa.string()))
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)

    def _count(self, texts: pa.Array, languages: np.ndarray, counts: np.ndarray) -> tuple[pa.Array, pa.Array]:
        """Fill the counts; the cuts, and where each text's end."""
        from gyral.curate.text.repetition_kernel import Room, repeated
        from gyral.curate.text.statistics_kernel import Lists, Settings, read
        from gyral.curate.text.words_kernel import NUM_COUNTED, NUM_LINE, Store, Text

        settings = Settings(
            self.cut_lines, self.filter_no_terminal_punct, self.min_words_per_line, self.max_word_length, self.remove_citations,
            self.filter_javascript, self.filter_policy, self.short_line_length,
        )  # fmt: skip
        data, offsets = utf8(texts)
        room = _Room(0, 0)
        cuts, ends = [np.zeros(0, np.int32)], np.zeros(len(texts) + 1, np.int32)
        for first, after in _blocks(offsets):
            begin, end = int(offsets[first]), int(offsets[after])
            if room.size < end - begin or room.texts < after - first:
                room = _Room(max(end - begin, BLOCK_BYTES), max(after - first, 256))
            room.data[: end - begin] = data[begin:end]
            room.data[end - begin : end - begin + _PAD] = 0
            bounds = offsets[first : after + 1].astype(np.int64) - begin
            text = Text(room.data, room.words, *_tables(), *_stop_tables(self.stop_words))
            store, lists = Store(room.hashes, room.ends, room.suffixes), Lists(*room.lists, room.cuts, room.list_bounds)
            part = counts[first:after]
            line = [np.zeros(size, np.int64) for size in (NUM_LINE, NUM_LINE, NUM_COUNTED, 4)]
            read(text, bounds, languages[first:after], settings, store, room.word_bounds, lists, part, *line)
            repeated(
                room.hashes, room.ends, room.word_bounds, *room.lists, room.list_bounds, room.table, room.state, part, _INTO,
                Room(*room.elements),
            )  # fmt: skip
            places = room.list_bounds[: after - first + 1, 3]
            ends[first + 1 : after + 1] = ends[first] + places[1:]
            cuts.append(room.cuts[: places[-1]].copy())
        return pa.array(np.concatenate(cuts)), pa.array(ends)


_INTO = np.array([list(COUNTS).index("num_text_lines"), list(COUNTS).index("num_left_duplicate_chars")])


class _Room:
    """Memory for blocks of at most so many bytes and texts: about 40 bytes a byte, bounded by `MAX_WORDS` and `MAX_LINES`."""

    def __init__(self, size: int, texts: int) -> None:
        self.size, self.texts = size, texts
        self.data = np.zeros(2 * size + 4 * _PAD, np.uint8)
        self.words = np.ndarray(len(self.data) - 8, np.dtype("<u8"), self.data.data, strides=(1,))
        words, lines = min(size, max(BLOCK_BYTES, MAX_WORDS)), min(size // 2, max(BLOCK_BYTES, MAX_LINES)) + 2 * texts + 4
        self.hashes, self.ends = np.zeros(words, np.uint64), np.zeros(words + 1, np.int32)
        kinds = (np.uint64, np.uint32, np.int32, np.int32, np.uint8)
        self.elements = [np.zeros(words, kind) for kind in kinds]
        self.suffixes = np.zeros(4096, np.int64)
        self.lists = np.zeros((3, lines), np.uint64), np.zeros((3, lines), np.int32)
        self.cuts = np.zeros(size // 2 + 2 * texts + 4, np.int32)
        self.list_bounds, self.word_bounds = np.zeros((texts + 1, 4), np.int64), np.zeros(texts + 1, np.int64)
        self.table = np.zeros(1 << max(int(2 * max(words, lines) - 1).bit_length(), 4), np.uint32)
        self.state = np.ones(1, np.int64)


def _blocks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows of texts that are read together."""
    first, count = 0, len(offsets) - 1
    while first < count:
        after = int(np.searchsorted(offsets, int(offsets[first]) + BLOCK_BYTES, "right")) - 1
        after = min(max(after, first + 1), first + 256, count)
        yield first, after
        first = after


def hash_bytes(text: bytes) -> int:
    """What `words_kernel.hash_of` makes of these bytes."""
    value, at = _LENGTH * (len(text) + 1) & _WORD, 0
    while len(text) - at > 8:
        value = (value ^ int.from_bytes(text[at : at + 8], "little")) * _MIX & _WORD
        value ^= value >> 32
        at += 8
    value = (value ^ int.from_bytes(text[at:], "little")) * _MIX & _WORD
    value = (value ^ (value >> 29)) * _MIX_2 & _WORD
    return value ^ (value >> 32)


@lru_cache(1)
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Bits of characters; of special chunks and units of measure: bits of hashes, hashes, where they are cut, [8192] each."""
    from gyral.curate.text.characters import table

    bits, keys, cuts = np.zeros(1 << 13, np.uint8), np.zeros(1 << 13, np.uint64), np.zeros((1 << 13, 2), np.uint8)
    hashes = {hash_bytes("".join(words).encode()): words for words in special.pieces().values()}
    hashes |= {hash_bytes(unit.encode()) ^ _MIX: (unit,) for unit in _UNITS.split()}
    for key, words in hashes.items():
        slot = _slot(keys, key, key >> 51)
        lengths = [len(word.encode()) for word in words]
        cuts[slot, : len(words) - 1] = np.cumsum(lengths)[:-1]
        bits[key >> 51] |= 1 << (key >> 48 & 7)
    return table(), bits, keys, cuts


@lru_cache(8)
def _stop_tables(stop_words: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the stop words of each language, uint64 [L, 256], and the bit of each, int64."""
    keys, bits = np.zeros((max(len(stop_words), 1), 256), np.uint64), np.zeros((max(len(stop_words), 1), 256), np.int64)
    for row, (_, words) in enumerate(stop_words):
        for number, word in enumerate(dict.fromkeys(words)):
            key = hash_bytes(word.encode())
            bits[row, _slot(keys[row], key, key >> 56)] = np.uint64(1 << number).astype(np.int64)
    return keys, bits


def _slot(keys: np.ndarray, key: int, slot: int) -> int:
    while keys[slot]:
        slot = (slot + 1) % len(keys)
    keys[slot] = key
    return slot
