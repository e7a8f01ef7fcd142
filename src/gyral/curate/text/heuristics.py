"""The rules of Gopher, C4 and FineWeb as limits on stored counts, in the order of FineWeb's pipeline.

Names and thresholds are datatrove's. 0 switches a rule of Gopher off, as it does there. All limits together decide a million
texts in 0.3 to 0.6 CPU seconds, as each is one division of two columns.

What does not hold for a script is not applied to it: a rule is not applied to a text where over half of the words (but symbols)
are such that it cannot be.

| rule | Han, kana, Khmer, Burmese | Thai, Lao, Tibetan | other scripts |
|---|---|---|---|
| number of words, symbols, n-grams | a character is a word | a character is a word | words |
| mean length of words, stop words | no | no | yes; Hangul counts twice; stop words of the text's language, if it has a list |
| words with a letter | yes: their characters are letters | yes | yes |
| C4: words of a line | a character is a word | a character is a word | chunks between spaces |
| C4: number of sentences, FineWeb: terminal marks | yes: 。！？ ។ ။ count | no: they have none | yes |
| FineWeb: short lines | Han and kana count as two columns | yes | yes |
"""

from __future__ import annotations

from functools import partial

import numpy as np

from gyral.config.curation import C4, FineWeb, Gopher, Quality
from gyral.curate.stage import Columns, Limit, Op, numbers

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Gopher's; a text needs two of them."""
_UNITS, _UNMARKED, _SPOKEN = "num_unit_words", "num_unmarked_words", ("num_words", "num_symbol_words")


def limits(quality: Quality) -> list[Limit]:
    """The limits of the rule sets that are on."""
    found: list[Limit] = []
    if quality.gopher.enabled:
        found += [*_repetition(quality.gopher), *_quality(quality.gopher)]
    if quality.c4.enabled:
        found += _c4(quality.c4)
    if quality.fineweb.enabled:
        found += _fineweb(quality.fineweb)
    return found


def _repetition(gopher: Gopher) -> list[Limit]:
    """Source: Rae et al. 2021, table A1."""
    found = [_number("gopher_empty", "gopher.enabled", "num_chars", "", "<", 1)]
    for name, threshold, repeated, all_of_them in (
        ("dup_para_frac", gopher.dup_para_frac, "num_duplicate_paragraphs", "num_paragraphs"),
        ("dup_para_char_frac", gopher.dup_para_char_frac, "num_duplicate_paragraph_chars", "num_chars"),
        ("dup_line_frac", gopher.dup_line_frac, "num_duplicate_lines", "num_text_lines"),
        ("dup_line_char_frac", gopher.dup_line_char_frac, "num_duplicate_line_chars", "num_chars"),
    ):
        if threshold:
            found.append(_share(f"gopher_{name}", f"gopher.{name}", repeated, all_of_them, ">", threshold))
    for n, threshold in gopher.top_n_grams:
        count = f"num_top_{n}_gram_chars"
        found.append(_share(f"gopher_top_{n}_gram", "gopher.top_n_grams", count, "num_chars", ">", threshold))
    for size, threshold in gopher.dup_n_grams:
        count = f"num_duplicate_{size}_gram_chars"
        found.append(_share(f"gopher_duplicated_{size}_n_grams", "gopher.dup_n_grams", count, "num_chars", ">", threshold))
    return found


def _quality(gopher: Gopher) -> list[Limit]:
    """Source: Rae et al. 2021, section A.1.1."""
    words, symbols, length, lines = "num_words", "num_symbol_words", "num_word_chars", "num_lines"
    few, many, symbol_share = gopher.min_avg_word_length, gopher.max_avg_word_length, gopher.max_symbol_word_ratio
    bullets, ellipses, alpha = gopher.max_bullet_lines_ratio, gopher.max_ellipsis_lines_ratio, gopher.max_non_alpha_words_ratio
    rules = [
        _number("short_doc", "min_words", words, symbols, "<", gopher.min_words),
        _number("long_doc", "max_words", words, symbols, ">", gopher.max_words),
        _mean_length("below_avg_threshold", "min_avg_word_length", length, "<", few),
        _mean_length("above_avg_threshold", "max_avg_word_length", length, ">", many),
        _share("too_many_hashes", "max_symbol_word_ratio", "num_hashes", words, ">", symbol_share),
        _share("too_many_ellipsis", "max_symbol_word_ratio", "num_ellipses", words, ">", symbol_share),
        _share("too_many_bullets", "max_bullet_lines_ratio", "num_bullet_lines", lines, ">", bullets),
        _share("too_many_end_ellipsis", "max_ellipsis_lines_ratio", "num_ellipsis_lines", lines, ">", ellipses),
        _share("below_alpha_threshold", "max_non_alpha_words_ratio", "num_alpha_words", words, "<", alpha),
        _number("few_stop_words", "min_stop_words", "num_stop_words", "", "<", gopher.min_stop_words, unless=_UNITS),
    ]
    rules = [rule for rule in rules if rule.threshold]
    return [rule._replace(reason=f"gopher_{rule.reason}", rule=rule.rule.replace(".", ".gopher.")) for rule in rules]


def _c4(c4: C4) -> list[Limit]:
    """Source: Raffel et al. 2020, section 2.2; the lines that it cuts are in the stage."""
    found = []
    if c4.filter_lorem_ipsum:
        found.append(_number("c4_lorem_ipsum", "c4.filter_lorem_ipsum", "num_lorem_ipsum_lines", "", ">", 0))
    if c4.filter_curly_bracket:
        found.append(_number("c4_curly_bracket", "c4.filter_curly_bracket", "num_curly_lines", "", ">", 0))
    sentences = c4.min_num_sentences
    found.append(_number("c4_too_few_sentences", "c4.min_num_sentences", "num_sentences", "", "<", sentences, unless=_UNMARKED))
    return found


def _fineweb(fineweb: FineWeb) -> list[Limit]:
    """Source: Penedo et al. 2024, section 3.6."""
    lines, chars, zero = "num_left_lines", "num_left_chars", not fineweb.line_punct_exclude_zero
    marked, short, repeated = "num_left_terminal_lines", "num_left_short_lines", "num_left_duplicate_chars"
    least, most = fineweb.line_punct_thr, fineweb.char_duplicates_ratio
    return [
        _number("fineweb_empty", "fineweb.enabled", lines, "", "<", 1),
        _share("fineweb_line_punct_ratio", "fineweb.line_punct_thr", marked, lines, "<", least, _UNMARKED, zero),
        _share("fineweb_short_line_ratio", "fineweb.short_line_thr", short, lines, ">", fineweb.short_line_thr),
        _share("fineweb_char_dup_ratio", "fineweb.char_duplicates_ratio", repeated, chars, ">", most),
        _share(
            "fineweb_list_ratio", "fineweb.new_line_ratio", "num_left_breaks", "num_left_words", ">", fineweb.new_line_ratio
        ),
    ]


def _share(
    reason: str, rule: str, part: str, whole: str, op: Op, threshold: float, unless: str = "", zero: bool = True
) -> Limit:
    """Part of a whole; without `zero`, none where there is no part."""
    columns = [part, whole, *([unless, *_SPOKEN] if unless else [])]
    return Limit(reason, f"quality.{rule}", columns, partial(_divided, part, whole, unless, zero), op, threshold)


def _number(reason: str, rule: str, count: str, less: str, op: Op, threshold: float, unless: str = "") -> Limit:
    columns = [count, *([less] if less else []), *([unless, *_SPOKEN] if unless else [])]
    return Limit(reason, f"quality.{rule}", columns, partial(_counted, count, less, unless), op, threshold)


def _mean_length(reason: str, rule: str, length: str, op: Op, threshold: float) -> Limit:
    return Limit(reason, f"quality.{rule}", [length, _UNITS, *_SPOKEN], partial(_mean, length), op, threshold)


def _divided(part: str, whole: str, unless: str, zero: bool, columns: Columns) -> np.ndarray:
    above, below = numbers(columns, part), numbers(columns, whole)
    value = np.full(len(above), np.nan)
    np.divide(above, below, out=value, where=below > 0)
    value = value if zero else np.where(above > 0, value, np.nan)
    return np.where(_applies(columns, unless), value, np.nan) if unless else value


def _counted(count: str, less: str, unless: str, columns: Columns) -> np.ndarray:
    value = numbers(columns, count) - (numbers(columns, less) if less else 0)
    return np.where(_applies(columns, unless), value, np.nan) if unless else value


def _mean(length: str, columns: Columns) -> np.ndarray:
    """Characters a word, of the words that are neither symbols nor of one character."""
    chars, words = numbers(columns, length), _counted(*_SPOKEN, "", columns) - numbers(columns, _UNITS)
    value = np.full(len(chars), np.nan)
    np.divide(chars, words, out=value, where=words > 0)
    return np.where(_applies(columns, _UNITS), value, np.nan)


def _applies(columns: Columns, unless: str) -> np.ndarray:
    """Whether at most half of the words that are not symbols are such."""
    return np.asarray(2 * numbers(columns, unless) <= _counted(*_SPOKEN, "", columns))
