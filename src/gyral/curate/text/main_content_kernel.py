"""From features of blocks to the text of a page: a forest scores them, a second sees the scores around, the best are joined.

The second forest does what a sequence model would: it knows the scores of the neighbours, of the elements around and of what
follows a heading, so a short line inside an article is told from the same line in a sidebar.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gyral.curate.text.block_features_kernel import NUM_FEATURES
from gyral.curate.text.blocks_kernel import FROM, LINKED, NODE, NODE_TAG, PARENT, TO
from gyral.curate.text.tags_kernel import TAG, TAGS, names

CONTEXT = names(
    "score score_prev score_prev2 score_next score_next2 score_around score_node score_parent score_grandparent score_great "
    "score_section taken_before taken_after taken_share most_next most_prev"
)
"""What the second forest sees beside the features of `describe`."""
NUM_ALL = NUM_FEATURES + len(CONTEXT)
FLOOR = 0.02
"""Blocks that the first forest scores lower are not looked at again: four in ten."""
_IN_LIST = np.zeros(len(TAGS), np.bool_)
for _name in names("li dt dd tr td th"):
    _IN_LIST[TAG[_name]] = True
_TD, _TH, _TR = TAG["td"], TAG["th"], TAG["tr"]


@njit(nogil=True, cache=True)
def score(rows, count, roots, features, thresholds, children, leaves, floor, out):  # type: ignore[no-untyped-def]
    """Probabilities of rows by a forest of binary trees.

    Parameters
    ----------
    roots : first split of each tree, int32; features int16 [s], thresholds float32 [s]; children int32 [s, 2], where `<=`
        leads and where `>`, below zero: `~` of a leaf; leaves float32.
    out : float32 [count]; where it is below `floor` it stays, elsewhere it becomes 1 / (1 + exp(-sum of leaves)).
    """
    # Indices are unsigned, so that none is checked for being below zero.
    some = np.empty(count, np.uint64)
    chosen = 0
    for b in range(count):
        if out[b] >= floor:
            some[chosen] = b
            out[b] = 0
            chosen += 1
    for root in roots:
        for place in range(chosen):
            b = some[place]
            at = np.uint64(root)
            while True:
                side = np.uint64(rows[b, np.uint64(features[at])] > thresholds[at])
                following = children[at, side]
                if following < 0:
                    break
                at = np.uint64(following)
            out[b] += leaves[np.uint64(~following)]
    for place in range(chosen):
        out[some[place]] = 1 / (1 + np.exp(-out[some[place]]))


@njit(nogil=True, cache=True)
def look_around(nodes, num_nodes, blocks, count, scores, rows):  # type: ignore[no-untyped-def]
    """Fill the columns of rows behind the first `NUM_FEATURES` with the scores around each block."""
    first = NUM_FEATURES
    sums = np.zeros((num_nodes, 2))
    weights = np.empty(count)
    total = 0.0
    for b in range(count):
        weights[b] = max(blocks[b, TO] - blocks[b, FROM] - blocks[b, LINKED], 0) + 5.0
        node = blocks[b, NODE]
        sums[node, 0] += weights[b] * scores[b]
        sums[node, 1] += weights[b]
        total += weights[b] * scores[b]
        rows[b, first + 6] = sums[node, 0]
    for b in range(count):
        node = blocks[b, NODE]
        rows[b, first + 6] = sums[node, 0] / sums[node, 1]
    for node in range(num_nodes - 1, 0, -1):
        parent = nodes[node, PARENT]
        sums[parent, 0] += sums[node, 0]  # one by one: a sum of rows takes two seconds more to compile
        sums[parent, 1] += sums[node, 1]
    so_far = 0.0
    around = around_weight = 0.0
    for b in range(min(5, count)):
        around += weights[b] * scores[b]
        around_weight += weights[b]
    for b in range(count):
        row = rows[b]
        if b + 5 < count:
            around += weights[b + 5] * scores[b + 5]
            around_weight += weights[b + 5]
        if b > 5:
            around -= weights[b - 6] * scores[b - 6]
            around_weight -= weights[b - 6]
        row[first] = scores[b]
        row[first + 1] = scores[b - 1] if b > 0 else 0
        row[first + 2] = scores[b - 2] if b > 1 else 0
        row[first + 3] = scores[b + 1] if b + 1 < count else 0
        row[first + 4] = scores[b + 2] if b + 2 < count else 0
        row[first + 5] = around / around_weight
        up = blocks[b, NODE]
        for step in range(3):
            up = max(nodes[up, PARENT], 0)
            row[first + 7 + step] = sums[up, 0] / max(sums[up, 1], 1.0)
        row[first + 11] = so_far / total
        so_far += weights[b] * scores[b]
        row[first + 12] = (total - so_far) / total
        row[first + 13] = total / max(sums[0, 1], 1.0)
        row[first + 14] = row[first + 15] = 0
        for near in range(1, 6):
            if b + near < count:
                row[first + 14] = max(row[first + 14], scores[b + near])
            if b >= near:
                row[first + 15] = max(row[first + 15], scores[b - near])
    section = section_weight = 0.0
    for b in range(count - 1, -1, -1):
        rows[b, first + 10] = section / section_weight if section_weight > 0 else 0.0
        section += weights[b] * scores[b]
        section_weight += weights[b]
        if rows[b, 17] > 0:
            section = section_weight = 0.0


@njit(nogil=True, cache=True)
def join(text, nodes, blocks, count, is_kept, out):  # type: ignore[no-untyped-def]
    """Join the kept blocks: paragraphs by a blank line, items of a list and rows of a table by a line end, cells by a tab.

    `out` has room for the text and two bytes a block. Returns how many bytes it has.
    """
    size = 0
    last = -1
    for b in range(count):
        if not is_kept[b]:
            continue
        node = blocks[b, NODE]
        if last >= 0:
            was = blocks[last, NODE]
            tag, tag_was = nodes[node, NODE_TAG], nodes[was, NODE_TAG]
            is_cell = tag in (_TD, _TH) and tag_was in (_TD, _TH)
            if is_cell and nodes[node, PARENT] == nodes[was, PARENT] and node != was:
                out[size] = 9
                size += 1
            elif _IN_LIST[tag] and _IN_LIST[tag_was] and last == b - 1:
                out[size] = 10
                size += 1
            else:
                out[size] = out[size + 1] = 10
                size += 2
        for at in range(blocks[b, FROM], blocks[b, TO]):
            out[size] = text[at]
            size += 1
        last = b
    return size


@njit(nogil=True, cache=True)
def choose(rows, scores, count, threshold, titles):  # type: ignore[no-untyped-def]
    """Which blocks are the content: those from `threshold` on; without `titles`, no first heading that the title repeats."""
    is_kept = np.empty(count, np.bool_)
    for b in range(count):
        is_kept[b] = scores[b] >= threshold
        if not titles and rows[b, 17] == 1 and rows[b, 13] >= 0.5:
            is_kept[b] = False
    return is_kept
