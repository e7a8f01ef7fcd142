"""HTML bytes → blocks of text and the tree of the elements around them, in one pass and without a parser's tree.

It follows the parts of the standard's tokenizer that text depends on: comments, raw text elements, quoted attributes, void and
unclosed elements, references to characters. What it gives up: misnested formatting is not repaired, because formatting does not
part blocks; nor are tables. Time and memory are linear in the bytes whatever these are: an end tag without a start is known by
counts, a search that failed once is never done again, and depth, elements, blocks and words of attributes are bounded.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gyral.curate.text.tags_kernel import (
    BLOCK_TAGS,
    KIND,
    TAG,
    TAG_KEYS,
    TAG_VALUES,
    TAGS,
    attributes,
    find_byte,
    look_up,
    names,
    reference,
)

MOST_DEPTH = 256
MOST_NODES = 1 << 17
MOST_BLOCKS = 1 << 17
MOST_TOKENS = 1 << 19
PARENT, NODE_TAG, TOKENS_FROM, TOKENS_TO = range(4)
FROM, TO, NODE, LINKED, INLINE_FROM, INLINE_TO = range(6)
"""Columns of nodes, int32 [·, 4], and of blocks, int32 [·, 6]; `LINKED` counts the bytes of the block inside links."""

_LAST_BLOCK, _CUSTOM, _FIRST_SKIP, _BR, _HR = TAG[BLOCK_TAGS[-1]], TAG["custom"], TAG["script"], TAG["br"], TAG["hr"]
_A, _P, _LI, _TR, _TD, _TH, _DT, _DD = (TAG[name] for name in names("a p li tr td th dt dd"))
_UL, _OL, _TABLE, _PRE, _TITLE, _MENU, _DL = (TAG[name] for name in names("ul ol table pre title menu dl"))
_SCRIPT, _STYLE = TAG["script"], TAG["style"]
_NUM_TAGS = len(TAGS)
_BLANK, _LINE = 1, 2


@njit(nogil=True, cache=True, inline="always")
def _name(data, at, end):  # type: ignore[no-untyped-def]
    """Number of the element whose name begins at `at`, and where the name ends."""
    key = np.uint64(0)
    shift = np.uint64(0)
    hyphen = False
    while at < end and KIND[data[at]] != 0:
        byte = data[at]
        if shift < 64:
            key |= np.uint64(byte | (32 if KIND[byte] == 2 else 0)) << shift
        shift += np.uint64(8)
        hyphen |= byte == 45
        at += 1
    if hyphen:
        return np.int32(_CUSTOM), at
    return look_up(TAG_KEYS, TAG_VALUES, key), at


@njit(nogil=True, cache=True)
def _behind_end_tag(data, at, end, tag):  # type: ignore[no-untyped-def]
    """Where the next end tag of an element begins; -1: there is none."""
    while True:
        at = find_byte(data, at, end, 60)
        if at + 2 >= end:
            return -1
        if data[at + 1] == 47:
            number, _ = _name(data, at + 2, end)
            if number == tag:
                return at
        at += 1


@njit(nogil=True, cache=True)
def _to_close(tag, stack, depth, opened):  # type: ignore[no-untyped-def]
    """Depth that a start tag leaves of the open elements: those it closes by itself go."""
    if depth and stack[depth - 1] == _P:
        depth -= 1
        opened[_P] -= 1
    fence_a = fence_b = fence_c = -1
    if tag == _LI:
        fence_a, fence_b, fence_c = _UL, _OL, _MENU
    elif tag in (_DT, _DD):
        fence_a = _DL
    elif tag in (_TR, _TD, _TH):
        fence_a = _TABLE
    else:
        return depth
    at = depth
    while at > 0 and depth - at < 32:
        at -= 1
        each = stack[at]
        if each in (fence_a, fence_b, fence_c):
            break
        is_cell = each in (_TD, _TH)
        if (
            (tag == _LI and each == _LI)
            or ((tag in (_DT, _DD)) and (each in (_DT, _DD)))
            or ((tag in (_TD, _TH)) and is_cell)
            or (tag == _TR and each == _TR)
        ):
            for gone in range(at, depth):
                opened[stack[gone]] -= 1
            return at
        if (tag in (_TD, _TH)) and each == _TR:
            break
    return depth


@njit(nogil=True, cache=True)
def _end_block(blocks, num_blocks, begin, end, node, linked, inline_from, num_tokens):  # type: ignore[no-untyped-def]
    """Write a block down, as long as there is room; returns how many there are."""
    if num_blocks == len(blocks):
        return num_blocks
    blocks[num_blocks, FROM] = begin
    blocks[num_blocks, TO] = end
    blocks[num_blocks, NODE] = node
    blocks[num_blocks, LINKED] = linked
    blocks[num_blocks, INLINE_FROM] = inline_from
    blocks[num_blocks, INLINE_TO] = max(inline_from, min(num_tokens, inline_from + 24))
    return num_blocks + 1


@njit(nogil=True, cache=True)
def scan(data, text, nodes, blocks, tokens):  # type: ignore[no-untyped-def]
    """Read one page.

    Parameters
    ----------
    data : bytes of the page in UTF-8, uint8 [n].
    text : uint8 [n + 8], the text of the blocks, one behind the other; runs of blanks are one, except in `pre`.
    nodes, blocks : int32 [·, 4] and [·, 6], columns as the names above say; node 0 is the page, parents come before children.
    tokens : uint16 [·], hashed words of `class`, `id`, `role` and `itemprop`, of elements and of what is inline at the
        beginning of a block.

    Returns
    -------
    Numbers of nodes and of blocks, and where in `data` the title begins and ends.
    """
    end = len(data)
    stack = np.empty(MOST_DEPTH, np.int32)
    places = np.empty(MOST_DEPTH, np.int32)
    opened = np.zeros(_NUM_TAGS, np.int32)
    too_deep = np.zeros(_NUM_TAGS, np.int32)
    missing = np.zeros(_NUM_TAGS, np.bool_)
    depth = 0
    nodes[0, :] = 0
    nodes[0, PARENT] = -1
    num_nodes = 1
    num_blocks = num_tokens = 0
    node = 0
    out = begin = 0
    linked = 0
    in_link = False
    gap = 0
    title_from = title_to = 0
    inline_from = 0
    at = 0
    while at < end:
        byte = data[at]
        if byte != 60:
            at += 1
            if byte <= 32:
                if opened[_PRE] > 0 and byte != 13:
                    # Lines and indentation of code stay.
                    if gap and out > begin:
                        text[out] = 10 if gap == _LINE else 32
                        out += 1
                    gap = _LINE if byte == 10 else _BLANK
                elif gap == 0:
                    gap = _BLANK
                continue
            if byte == 0xC2 and at < end and data[at] == 0xA0:
                at += 1
                gap = max(gap, _BLANK)
                continue
            before = out
            if gap and out > begin:
                text[out] = 10 if gap == _LINE else 32
                out += 1
            if byte == 38:
                read, wrote = reference(data, at, end, text, out)
                at += read
                if wrote < 0:
                    out = before
                    gap = max(gap, _BLANK)
                    continue
                if read == 0:
                    text[out] = 38
                    wrote = 1
                out += wrote
            else:
                text[out] = byte
                out += 1
                while at < end:
                    byte = data[at]
                    if byte <= 32 or byte == 60 or byte == 38 or byte == 0xC2:
                        break
                    text[out] = byte
                    out += 1
                    at += 1
            gap = 0
            if in_link:
                linked += out - before
            continue
        following = data[at + 1] if at + 1 < end else np.uint8(0)
        kind = KIND[following]
        closing = following == 47
        if closing:
            kind = KIND[data[at + 2]] if at + 2 < end else np.uint8(0)
        if kind != 1 and kind != 2:
            if following == 33 or following == 63 or closing:
                if at + 3 < end and data[at + 2] == 45 and data[at + 3] == 45 and following == 33:
                    start = at + 4
                    at = end if missing[0] else find_byte(data, start, end, 62)
                    while at < end and not (data[at - 1] == 45 and data[at - 2] == 45):
                        at = find_byte(data, at + 1, end, 62)
                    if at >= end:
                        # Never closed, so it is none: only its tag goes, and no other is looked for.
                        missing[0] = True
                        at = find_byte(data, start, end, 62)
                    at += 1
                else:
                    at = find_byte(data, at, end, 62) + 1
            else:
                if gap and out > begin:
                    text[out] = 10 if gap == _LINE else 32
                    out += 1
                gap = 0
                text[out] = 60
                out += 1
                at += 1
            continue
        tag, at = _name(data, at + 1 + closing, end)
        is_block = 0 < tag <= _CUSTOM
        # A block ends where an element of its kind begins or ends, and at two line breaks.
        if is_block or tag == _HR or (tag == _BR and gap == _LINE and opened[_PRE] == 0):
            if out > begin:
                num_blocks = _end_block(blocks, num_blocks, begin, out, node, linked, inline_from, num_tokens)
                begin = out
            linked = 0
            inline_from = num_tokens
            gap = 0
        elif tag == _BR:
            gap = _LINE
        if closing:
            at = find_byte(data, at, end, 62) + 1
            if tag == _A:
                in_link = False
            elif is_block and too_deep[tag] > 0:
                too_deep[tag] -= 1
            elif is_block and opened[tag] > 0:
                while depth > 0:
                    depth -= 1
                    opened[stack[depth]] -= 1
                    if stack[depth] == tag:
                        break
                node = places[depth - 1] if depth else 0
            continue
        wanted = is_block or (tag != 0 and tag < _FIRST_SKIP and out == begin)
        was = num_tokens
        at, num_tokens, linking = attributes(data, at, end, wanted, tokens, num_tokens)
        if tag == _A:
            in_link = linking
        elif is_block:
            depth = _to_close(tag, stack, depth, opened)
            node = places[depth - 1] if depth else 0
            if num_nodes < len(nodes) and depth < MOST_DEPTH:
                nodes[num_nodes, PARENT] = node
                nodes[num_nodes, NODE_TAG] = tag
                nodes[num_nodes, TOKENS_FROM] = was
                nodes[num_nodes, TOKENS_TO] = num_tokens
                node = num_nodes
                stack[depth] = tag
                places[depth] = node
                opened[tag] += 1
                depth += 1
                num_nodes += 1
            else:
                too_deep[tag] += 1
            inline_from = num_tokens
        elif _FIRST_SKIP <= tag < _BR:
            is_empty = data[at - 2] == 47 and tag != _SCRIPT and tag != _STYLE
            closed = -1 if missing[tag] or is_empty else _behind_end_tag(data, at, end, tag)
            if tag == _TITLE and title_to == 0 and closed > 0:
                title_from, title_to = at, closed
            if closed >= 0:
                at = closed
            elif not is_empty:
                missing[tag] = True
                if tag in (_SCRIPT, _STYLE):
                    at = end
    if out > begin:
        num_blocks = _end_block(blocks, num_blocks, begin, out, node, linked, inline_from, num_tokens)
    return num_nodes, num_blocks, title_from, title_to
