"""What a block of text is like: the numbers that the extractor's forest decides on.

Four passes, each linear: texts of the blocks; sums over the tree of elements, leaves first; what elements hand down, root
first; and the rows of the blocks, with their neighbours. Two small learned tables turn words into evidence: one holds the
log-odds that text below an element whose `class` or `id` has a word is content, the other those of words of the text itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gyral.curate.text.blocks_kernel import (
    FROM,
    INLINE_FROM,
    INLINE_TO,
    LINKED,
    NODE,
    NODE_TAG,
    PARENT,
    TO,
    TOKENS_FROM,
    TOKENS_TO,
)
from gyral.curate.text.tags_kernel import BUCKETS, TAG, TAGS, bucket, names

NAMES = names(
    "bytes words word_bytes link_share commas ends ends_sentence digits capitals first_kind word_mean word_min word_max "
    "title_share copies_before copies tag heading depth blocks_in_node own inline parent_own grandparent_own way_sum "
    "way_min way_max in_nav in_footer in_header in_aside in_article in_main in_form in_table in_list in_figure in_hidden "
    "node_bytes node_links parent_share parent_links parent_good parent_blocks grand_good grand_links great_good "
    "great_links in_top to_top_up to_top_down place good_before good_after since_heading last_heading h1_seen prev_bytes "
    "prev_links prev_tag next_bytes next_links next_tag prev2_bytes prev2_links next2_bytes next2_links same_as_prev "
    "same_as_next around_bytes around_links page_good page_blocks page_links wide prev_own next_own in_comments "
    "comment_share top_share page_paragraphs page_articles heading_mean heading_min"
)
"""Features of a block in their order, the columns of `describe`."""
NUM_FEATURES = len(NAMES)

WORD_BUCKETS = 1 << 14
_NUM_WORDS = 14
_GOOD_BYTES, _GOOD_LINKS = 60, 0.33
_HEADINGS = np.zeros(len(TAGS), np.int32)
for _level in range(1, 7):
    _HEADINGS[TAG[f"h{_level}"]] = _level
_MASKS = np.zeros(len(TAGS), np.int32)
for _bit, _names in enumerate(
    ["nav", "footer", "header", "aside", "article", "main", "form button", "table", "ul ol menu", "figure", ""]
):
    for _name in _names.split():
        _MASKS[TAG[_name]] = 1 << _bit
_NUM_MASKS = 11
_IS_HIDDEN, _IS_COMMENT = 1 << 10, 1 << 11
_COMMENTS = np.zeros(BUCKETS, np.bool_)
for _name in names(
    "comment comments commentlist commentary disqus respond replies kommentar kommentare commentaire commentaires"
):
    _COMMENTS[bucket(_name)] = True
_ARTICLE = TAG["article"]
_MIX = np.uint64(0x9E3779B97F4A7C15)
KIND = np.zeros(256, np.uint8)
"""What a byte of text is: 0 blank or punctuation, 1 small letter or beyond ASCII, 2 capital, 3 digit."""
KIND[128:], KIND[97:123], KIND[65:91], KIND[48:58] = 1, 1, 2, 3

BYTES, LINKS, GOOD, BLOCKS, OWN_BYTES, OWN_LINKS, OWN_BLOCKS = range(7)
"""Columns of the sums of nodes, int64 [·, 7]: of the text below, and of that right inside."""


@njit(nogil=True, cache=True)
def word_buckets(text, begin, end, out):  # type: ignore[no-untyped-def]
    """Buckets of up to 14 words of a block, its first ten and its last four; how many."""
    found = 0
    at = begin
    while at < end and found < 14:
        if found == 10:
            # What lies between the tenth word and the last four is not looked at.
            tail, left = end, 0
            while tail > at and left < 4:
                while tail > at and KIND[text[tail - 1]] == 0:
                    tail -= 1
                left += tail > at
                while tail > at and KIND[text[tail - 1]] != 0:
                    tail -= 1
            at = tail
        while at < end and KIND[text[at]] == 0:
            at += 1
        if at == end:
            break
        state = np.uint64(3)
        while at < end and KIND[text[at]] != 0:
            byte = text[at]
            state = (state ^ np.uint64(byte | 32 if byte < 128 else byte)) * _MIX
            state ^= state >> np.uint64(29)
            at += 1
        out[found] = (state * _MIX) >> np.uint64(50)
        found += 1
    return found


@njit(nogil=True, cache=True)
def _title_words(data, begin, end, table):  # type: ignore[no-untyped-def]
    state = np.uint64(3)
    length = 0
    for at in range(begin, min(end, begin + 400) + 1):
        byte = data[at] if at < end else np.uint8(32)
        if KIND[byte]:
            state = (state ^ np.uint64(byte | 32 if byte < 128 else byte)) * _MIX
            state ^= state >> np.uint64(29)
            length += 1
        elif length:
            table[(state * _MIX) >> np.uint64(50)] = True
            state = np.uint64(3)
            length = 0


@njit(nogil=True, cache=True)
def _texts(text, blocks, count, word_odds, in_title, rows, facts):  # type: ignore[no-untyped-def]
    """What the text of each block says by itself: the first fifteen features, and facts for the passes after it."""
    buckets = np.empty(_NUM_WORDS, np.int64)
    slots = 16
    while slots < 2 * count:
        slots *= 2
    keys = np.zeros(slots, np.uint64)
    times = np.zeros(slots, np.int32)
    for b in range(count):
        begin, end = blocks[b, FROM], blocks[b, TO]
        chars = words = commas = ends = digits = capitals = cjk = 0
        last = 0
        state = np.uint64(5)
        for at in range(begin, end):
            byte = text[at]
            kind = KIND[byte]
            chars += (byte & 0xC0) != 0x80
            words += kind != 0 and last == 0
            digits += kind == 3
            capitals += kind == 2
            if kind == 0:
                commas += byte == 44 or byte == 59 or byte == 58
                ends += byte == 46 or byte == 33 or byte == 63
            elif byte == 0xE3 and at + 2 < end and text[at + 1] == 0x80:
                ends += text[at + 2] == 0x82
                commas += text[at + 2] == 0x81
            cjk += 0xE3 <= byte <= 0xE9
            state = (state ^ np.uint64(byte)) * _MIX
            state ^= state >> np.uint64(31)
            last = kind
        words += cjk // 2
        size = end - begin
        final = text[end - 1]
        if final in (34, 39, 41, 0x9D) and size > 1:
            final = text[end - 2]
        mean, lowest, highest, titled = 0.0, 0.0, 0.0, 0
        known = word_buckets(text, begin, end, buckets)
        for place in range(known):
            odds = word_odds[buckets[place]] / 16.0
            mean += odds
            lowest = min(lowest, odds)
            highest = max(highest, odds)
            titled += in_title[buckets[place]]
        state |= np.uint64(1)
        slot = (state >> np.uint64(7)) & np.uint64(slots - 1)
        while keys[slot] != 0 and keys[slot] != state:
            slot = (slot + np.uint64(1)) & np.uint64(slots - 1)
        keys[slot] = state
        links = min(1.0, blocks[b, LINKED] / size)
        is_good = size >= _GOOD_BYTES and links < _GOOD_LINKS
        facts[b, 0] = size if is_good else 0
        facts[b, 1] = slot
        row = rows[b]
        row[0], row[1], row[2], row[3] = size, words, size / max(words, 1), links
        row[4], row[5] = commas, ends
        row[6] = 2 if final in (46, 33, 63) else 1 if final == 58 else 0
        row[7], row[8], row[9] = digits / size, capitals / max(words, 1), KIND[text[begin]]
        row[10], row[11], row[12], row[13] = mean / max(known, 1), lowest, highest, titled / max(known, 1)
        row[14] = times[slot]
        times[slot] += 1
        row[74] = chars / size
    for b in range(count):
        rows[b, 15] = times[facts[b, 1]]


@njit(nogil=True, cache=True, inline="always")
def _odds(tokens, begin, end, attribute_odds):  # type: ignore[no-untyped-def]
    """Evidence of the words of an element's attributes: their log-odds, damped by how many there are."""
    total = 0.0
    for at in range(begin, end):
        total += attribute_odds[tokens[at]]
    return total / 16.0 / np.sqrt(max(end - begin, 1))


@njit(nogil=True, cache=True)
def _down(nodes, count, tokens, attribute_odds, depth, mask, own, way):  # type: ignore[no-untyped-def]
    """Hand down the tree: depth, kinds of elements above, evidence of attributes (sum, least and most on the way)."""
    for node in range(count):
        up = nodes[node, PARENT]
        odds = _odds(tokens, nodes[node, TOKENS_FROM], nodes[node, TOKENS_TO], attribute_odds)
        own[node] = odds
        hidden = 0
        for at in range(nodes[node, TOKENS_FROM], nodes[node, TOKENS_TO]):
            if 0 < tokens[at] < 4:
                hidden |= _IS_HIDDEN
            elif _COMMENTS[tokens[at]]:
                hidden |= _IS_COMMENT
        if up < 0:
            depth[node] = 0
            mask[node] = 0
            way[node, 0] = way[node, 1] = way[node, 2] = 0
            continue
        depth[node] = depth[up] + 1
        mask[node] = mask[up] | _MASKS[nodes[node, NODE_TAG]] | hidden
        way[node, 0] = way[up, 0] + odds
        way[node, 1] = min(way[up, 1], odds)
        way[node, 2] = max(way[up, 2], odds)


@njit(nogil=True, cache=True)
def sum_up(nodes, num_nodes, blocks, num_blocks, facts, sums):  # type: ignore[no-untyped-def]
    """Sums of the texts in and below each node, columns as the names above say."""
    sums[:num_nodes] = 0
    for b in range(num_blocks):
        node = blocks[b, NODE]
        size = blocks[b, TO] - blocks[b, FROM]
        sums[node, OWN_BYTES] += size
        sums[node, OWN_LINKS] += blocks[b, LINKED]
        sums[node, OWN_BLOCKS] += 1
        sums[node, GOOD] += facts[b, 0]
    for node in range(num_nodes - 1, -1, -1):
        sums[node, BYTES] += sums[node, OWN_BYTES]
        sums[node, LINKS] += sums[node, OWN_LINKS]
        sums[node, BLOCKS] += sums[node, OWN_BLOCKS]
        up = nodes[node, PARENT]
        if up >= 0:
            for column in range(4):
                sums[up, column] += sums[node, column]


@njit(nogil=True, cache=True)
def _find_top(nodes, count, sums, on_way):  # type: ignore[no-untyped-def]
    """The deepest node that still holds 60 % of what its parent holds of good text, all the way down; marks the way to it."""
    best = np.full(count, -1, np.int32)
    for node in range(1, count):
        up = nodes[node, PARENT]
        if best[up] < 0 or sums[node, GOOD] > sums[best[up], GOOD]:
            best[up] = node
    top = 0
    on_way[:count] = False
    on_way[0] = True
    while best[top] >= 0 and sums[best[top], GOOD] > 0 and sums[best[top], GOOD] >= 0.6 * sums[top, GOOD]:
        top = best[top]
        on_way[top] = True
    # A paragraph is no container.
    if sums[top, BLOCKS] == 1 and top > 0:
        on_way[top] = False
        top = nodes[top, PARENT]
    return top


@njit(nogil=True, cache=True)
def describe(data, title, text, nodes, num_nodes, blocks, num_blocks, tokens, attribute_odds, word_odds, rows, sums):  # type: ignore[no-untyped-def]
    """Fill rows float32 [·, NUM_FEATURES] and sums int64 [·, 7] of one page that was scanned.

    Parameters
    ----------
    title : where in `data` the title begins and ends.
    attribute_odds, word_odds : int8 [buckets], log-odds in sixteenths.

    Returns
    -------
    The node that holds most of the good text.
    """
    in_title = np.zeros(WORD_BUCKETS, np.bool_)
    _title_words(data, title[0], title[1], in_title)
    facts = np.empty((num_blocks, 2), np.int64)
    _texts(text, blocks, num_blocks, word_odds, in_title, rows, facts)
    depth = np.empty(num_nodes, np.int32)
    mask = np.empty(num_nodes, np.int32)
    own = np.empty(num_nodes, np.float32)
    way = np.empty((num_nodes, 3), np.float32)
    on_way = np.empty(num_nodes, np.bool_)
    _down(nodes, num_nodes, tokens, attribute_odds, depth, mask, own, way)
    sum_up(nodes, num_nodes, blocks, num_blocks, facts, sums)
    top = _find_top(nodes, num_nodes, sums, on_way)
    whole, good = max(sums[0, BYTES], 1), max(sums[0, GOOD], 1)
    in_comments = paragraphs = articles = 0
    for b in range(num_blocks):
        paragraphs += facts[b, 0] > 0
        if mask[blocks[b, NODE]] & _IS_COMMENT:
            in_comments += facts[b, 0]
    for node in range(num_nodes):
        articles += nodes[node, NODE_TAG] == _ARTICLE
    so_far = 0
    heading_mean = heading_min = np.float32(0)
    since, level, h1_seen = 99, 0, 0
    for b in range(num_blocks):
        row = rows[b]
        node = blocks[b, NODE]
        up = max(nodes[node, PARENT], 0)
        grand = max(nodes[up, PARENT], 0)
        great = max(nodes[grand, PARENT], 0)
        tag = nodes[node, NODE_TAG]
        heading = max(_HEADINGS[tag], _HEADINGS[nodes[up, NODE_TAG]])
        row[16], row[17], row[18], row[19] = tag, heading, depth[node], sums[node, OWN_BLOCKS]
        row[20] = own[node]
        row[21] = _odds(tokens, blocks[b, INLINE_FROM], blocks[b, INLINE_TO], attribute_odds)
        row[22], row[23] = own[up], own[grand]
        row[24], row[25], row[26] = way[node, 0], way[node, 1], way[node, 2]
        for bit in range(_NUM_MASKS):
            row[27 + bit] = mask[node] >> bit & 1
        row[38], row[39] = sums[node, BYTES], sums[node, LINKS] / max(sums[node, BYTES], 1)
        row[40], row[41] = sums[up, BYTES] / whole, sums[up, LINKS] / max(sums[up, BYTES], 1)
        row[42], row[43] = sums[up, GOOD] / good, sums[up, BLOCKS]
        row[44], row[45] = sums[grand, GOOD] / good, sums[grand, LINKS] / max(sums[grand, BYTES], 1)
        row[46], row[47] = sums[great, GOOD] / good, sums[great, LINKS] / max(sums[great, BYTES], 1)
        common = node
        while not on_way[common]:
            common = nodes[common, PARENT]
        row[48], row[49], row[50] = common == top, depth[top] - depth[common], depth[node] - depth[common]
        row[51], row[52] = b / num_blocks, so_far / good
        so_far += facts[b, 0]
        row[53] = (good - so_far) / good
        if heading:
            since, level = 0, heading
            h1_seen |= heading == 1
            heading_mean, heading_min = row[10], row[11]
        row[54], row[55], row[56] = since, level, h1_seen
        since += 1
        row[77], row[78] = mask[node] >> 11 & 1, in_comments / good
        row[79], row[80], row[81] = sums[top, GOOD] / good, paragraphs, articles
        row[82], row[83] = heading_mean, heading_min
    _neighbours(blocks, num_blocks, rows)
    for b in range(num_blocks):
        rows[b, 71], rows[b, 72], rows[b, 73] = good, num_blocks, sums[0, LINKS] / whole
    return top


@njit(nogil=True, cache=True)
def _neighbours(blocks, count, rows):  # type: ignore[no-untyped-def]
    """Features of the blocks before and behind: two on each side one by one, four together."""
    around = links = 0.0
    for b in range(min(4, count)):
        around += rows[b, 0]
        links += rows[b, 0] * rows[b, 3]
    for b in range(count):
        row = rows[b]
        if b + 4 < count:
            around += rows[b + 4, 0]
            links += rows[b + 4, 0] * rows[b + 4, 3]
        if b > 4:
            around -= rows[b - 5, 0]
            links -= rows[b - 5, 0] * rows[b - 5, 3]
        for side in range(2):
            near = b - 1 if side == 0 else b + 1
            far = b - 2 if side == 0 else b + 2
            to, to_far = 57 + 3 * side, 63 + 2 * side
            inside = 0 <= near < count
            row[to] = rows[near, 0] if inside else -1
            row[to + 1] = rows[near, 3] if inside else -1
            row[to + 2] = rows[near, 16] if inside else -1
            row[75 + side] = rows[near, 20] if inside else 0
            row[67 + side] = inside and blocks[near, NODE] == blocks[b, NODE]
            inside = 0 <= far < count
            row[to_far] = rows[far, 0] if inside else -1
            row[to_far + 1] = rows[far, 3] if inside else -1
        row[69], row[70] = around, links / max(around, 1.0)
