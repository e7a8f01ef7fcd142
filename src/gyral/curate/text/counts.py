"""The counts that are stored of every text, and how much of a text is looked at for repetition.

A count is of the whole text, but for `num_left_…` and `num_sentences`, which are of the lines that C4's rules leave. Words are
those of the tokenizer (`statistics_kernel`); characters are code points; lines are those of Python's `splitlines`, text lines
what stands between line feeds.
"""

from __future__ import annotations

MAX_WORDS = 1 << 20
"""Of more words than these the first are looked at for repeated n-grams, so that tables are bounded (40 MB)."""
MAX_LINES = 1 << 20
"""The same for repeated lines and paragraphs."""

COUNTS = {
    "num_chars": "characters",
    "num_words": "words",
    "num_symbol_words": "words of punctuation and control characters alone",
    "num_alpha_words": "words with a letter",
    "num_word_chars": "characters of the words that are neither symbols nor of one character; of two columns (Hangul) twice",
    "num_unit_words": "words that are one character of a script without spaces",
    "num_unmarked_words": "of these, in Thai, Lao and Tibetan, which do not mark ends of sentences",
    "num_stop_words": "different stop words of the language; null where it has no list",
    "num_hashes": "number signs",
    "num_ellipses": "`...` and `…`",
    "num_lines": "lines",
    "num_bullet_lines": "lines that begin with `•` or `-`",
    "num_ellipsis_lines": "lines that end with an ellipsis",
    "num_long_word_lines": "lines cut for a word that is too long",
    "num_open_lines": "lines cut for no mark at their end",
    "num_few_word_lines": "lines cut for too few words, blank ones not counted",
    "num_javascript_lines": "lines cut for `javascript`",
    "num_policy_lines": "lines cut for cookies and terms of use",
    "num_lorem_ipsum_lines": "lines with `lorem ipsum`, of those that came so far",
    "num_curly_lines": "lines with a curly bracket, of those that came so far",
    "num_sentences": "sentences of the lines left",
    "num_left_lines": "lines left that are not blank",
    "num_left_terminal_lines": "of these, such that end with a terminal mark",
    "num_left_short_lines": "of these, short ones; a character of two columns counts twice",
    "num_left_chars": "characters of the lines left",
    "num_left_words": "words of the lines left",
    "num_left_breaks": "line feeds of the lines left",
    "num_left_duplicate_chars": "characters of lines left that are repetitions",
    "num_text_lines": "text lines",
    "num_duplicate_lines": "text lines that are repetitions",
    "num_duplicate_line_chars": "their characters",
    "num_paragraphs": "paragraphs: what stands between two line feeds or more",
    "num_duplicate_paragraphs": "paragraphs that are repetitions",
    "num_duplicate_paragraph_chars": "their characters",
    **{f"num_top_{n}_gram_chars": f"characters of the most frequent {n}-gram, times its number" for n in (2, 3, 4)},
    **{f"num_duplicate_{n}_gram_chars": f"characters of {n}-grams that are repetitions" for n in range(5, 11)},
}
"""Column, int32 → what it counts. Null where there is no text."""
