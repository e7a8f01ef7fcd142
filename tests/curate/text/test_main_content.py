"""The extractor: its parts against plain Python, its weights against what the card says, whole pages, hostile pages."""

from __future__ import annotations

import json
import math
import threading
import time
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.curate.text import main_content
from gyral.curate.text.block_features_kernel import NAMES, NUM_FEATURES, describe
from gyral.curate.text.main_content import MainContent, weights
from gyral.curate.text.main_content_kernel import CONTEXT, NUM_ALL, join, look_around, score
from gyral.curate.text.tags_kernel import BUCKETS, TAG
from gyral.errors import InputError

PARAGRAPH = (
    "The river rose again in the night, and by morning the lower road was under water; those who live along it had moved their "
    "animals to the hill. Nobody was surprised, because the same thing had happened in each of the last four years."
)
PAGE = f"""<!doctype html><html><head><title>Flood on the lower road - The Valley Post</title><style>p {{}}</style></head>
<body><header class="site-header"><nav class="main-menu"><ul><li><a href=/>Home</a></li><li><a href=/news>News</a></li>
<li><a href=/sport>Sport</a></li></ul></nav></header>
<main><article class="post"><h1>Flood on the lower road</h1><div class="entry-content"><p>{PARAGRAPH}</p>
<h2>What the council says</h2><p>Second: {PARAGRAPH}</p>
<p>Third: {PARAGRAPH} <a href=/more>An older report</a> says the same.</p></div></article>
<aside class="related sidebar"><h3>Related articles</h3><ul><li><a href=/a>Bridge to be closed for repairs</a></li>
<li><a href=/b>Sheep found on the roof of the school</a></li></ul></aside></main>
<footer class="site-footer"><p>Copyright 2024 The Valley Post. All rights reserved.</p><a href=/privacy>Privacy policy</a>
</footer><script>var text = "<p>not this</p>";</script></body></html>"""


def test_an_article_is_parted_from_what_is_around_it() -> None:
    text = MainContent().extract(PAGE.encode())
    assert text.split("\n\n")[0] == PARAGRAPH
    assert f"Second: {PARAGRAPH}" in text
    assert "An older report says the same." in text
    for other in ("Sport", "Sheep", "Copyright", "Privacy", "not this", "Flood on"):
        assert other not in text


def test_titles_are_kept_when_asked_for() -> None:
    with_title = MainContent(threshold=0.0, titles=True).extract(PAGE.encode())
    assert "Flood on the lower road" in with_title
    assert "Flood on the lower road" not in MainContent(threshold=0.0).extract(PAGE.encode())


def test_another_charset_is_decoded_and_an_unknown_one_refused() -> None:
    page = PAGE.replace("river", "fleuve été")
    assert MainContent().extract(page.encode("latin-1"), "iso-8859-1") == MainContent().extract(page.encode())
    with pytest.raises(InputError, match="`klingon` is no charset"):
        MainContent().extract(b"x", "klingon")


@pytest.mark.parametrize("page", [b"", b"   ", b"<p>", b"\xff\xfe<p>\x80", b"<", b"\0" * 50])
def test_pages_without_text_give_none_or_little(page: bytes) -> None:
    assert len(MainContent().extract(page)) <= len(page)


def test_too_large_a_page_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_content, "MOST_BYTES", 10)
    with pytest.raises(InputError, match="a page of 11 bytes is too large"):
        MainContent().extract(b"x" * 11)


@settings(max_examples=150, deadline=None)
@given(st.text("<>/ apdivul=\"'&;\n-!h1", max_size=400))
def test_whatever_the_page_holds_text_comes_out_and_twice_the_same(page: str) -> None:
    extractor = MainContent(threshold=0.2)
    once = extractor.extract(page.encode())
    assert once == extractor.extract(page.encode())


@pytest.mark.parametrize(
    "piece", ["<div>x", "<p>word " * 3, "<li><a href=x>y</a>", "<td>a<table>", "<div class='a b c d e'>t</div>"]
)
def test_hostile_pages_take_bounded_time(piece: str) -> None:
    extractor = MainContent()
    extractor.extract(PAGE.encode())
    start = time.process_time()
    extractor.extract(piece.encode() * (1_000_000 // len(piece)))
    assert time.process_time() - start < 3


def test_threads_have_rooms_of_their_own() -> None:
    extractor, found = MainContent(), []
    pages = [PAGE.replace("river", f"river{number}").encode() for number in range(8)]
    expected = [extractor.extract(page) for page in pages]
    threads = [threading.Thread(target=lambda: found.append([extractor.extract(page) for page in pages])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_the_weights_are_small_and_say_what_they_were_made_of() -> None:
    folder = files("gyral.curate.text")
    size = sum(len(folder.joinpath(f"main_content.{kind}").read_bytes()) for kind in ("npz", "json"))
    assert size < 1 << 20
    card = json.loads(folder.joinpath("main_content.json").read_text())
    assert set(card["pages"]) == set(card["sources"])
    known = weights()
    assert known.attribute_odds.shape == (BUCKETS,)
    assert known.first.features.max() < NUM_FEATURES
    assert known.second.features.max() < NUM_ALL == NUM_FEATURES + len(CONTEXT)


def test_a_forest_gives_what_a_walk_in_plain_python_gives() -> None:
    forest = weights().second
    rows = np.random.default_rng(3).normal(0, 30, (50, NUM_ALL)).astype(np.float32)
    out = np.full(50, 0.5, np.float32)
    out[7] = 0.1
    score(rows, 50, forest.roots, forest.features, forest.thresholds, forest.children, forest.leaves, 0.2, out)
    assert out[7] == np.float32(0.1)
    rows, out = np.delete(rows, 7, 0), np.delete(out, 7)
    for row, got in zip(rows.tolist(), out.tolist(), strict=True):
        total = 0.0
        for root in forest.roots.tolist():
            at = root
            while at >= 0:
                at = int(forest.children[at][1 if row[forest.features[at]] > forest.thresholds[at] else 0])
            total += float(forest.leaves[-at - 1])
        assert math.isclose(got, 1 / (1 + math.exp(-total)), rel_tol=1e-3, abs_tol=1e-5)


def _random_page(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Text, nodes and blocks of a page that no tokenizer made: a random tree with blocks in the order of its nodes."""
    rng = np.random.default_rng(seed)
    nodes = np.zeros((30, 4), np.int32)
    nodes[0, 0] = -1
    for node in range(1, 30):
        nodes[node, :2] = (
            rng.integers(max(0, node - 4), node),
            rng.choice([TAG["div"], TAG["p"], TAG["h2"], TAG["li"], TAG["td"]]),
        )
    sizes = rng.integers(1, 200, 25)
    ends = np.cumsum(sizes)
    blocks = np.zeros((25, 6), np.int32)
    blocks[:, 0], blocks[:, 1] = ends - sizes, ends
    blocks[:, 2] = np.sort(rng.integers(0, 30, 25))
    blocks[:, 3] = rng.integers(0, sizes + 1) * (rng.random(25) < 0.4)
    text = rng.choice(np.frombuffer(b"abcdefgh     .,!A9", np.uint8), ends[-1]).astype(np.uint8)
    text[blocks[:, 0]] = ord("W")
    return text, nodes, blocks


def _column(name: str) -> int:
    return NAMES.index(name)


@pytest.mark.parametrize("seed", range(5))
def test_features_are_what_plain_python_counts(seed: int) -> None:
    text, nodes, blocks = _random_page(seed)
    rows, sums = np.zeros((25, NUM_ALL), np.float32), np.zeros((30, 7), np.int64)
    odds = np.zeros(1 << 14, np.int8)
    title = np.frombuffer(b"Wa b", np.uint8)
    describe(title, (0, 4), text, nodes, 30, blocks, 25, np.zeros(1, np.uint16), odds, odds, rows, sums)
    texts = [bytes(text[begin:end]).decode() for begin, end in blocks[:, :2]]
    above = []
    for node in blocks[:, 2].tolist():
        chain = []
        while node >= 0:
            chain.append(node)
            node = int(nodes[node, 0])
        above.append(chain)
    good = [len(t) if len(t) >= 60 and blocks[b, 3] / len(t) < 0.33 else 0 for b, t in enumerate(texts)]
    for b, own in enumerate(texts):
        words = "".join(c if c.isalnum() else " " for c in own).split()
        expected = {
            "bytes": len(own),
            "words": len(words),
            "link_share": blocks[b, 3] / len(own),
            "commas": own.count(","),
            "ends": own.count(".") + own.count("!"),
            "digits": own.count("9") / len(own),
            "capitals": sum(c.isupper() for c in own) / len(words),
            "title_share": np.mean(
                [w.lower() in ("wa", "b") for w in (words if len(words) <= 14 else _ten_and_last_four(words))]
            ),
            "copies": texts.count(own),
            "copies_before": texts[:b].count(own),
            "depth": len(above[b]) - 1,
            "blocks_in_node": sum(blocks[:, 2] == blocks[b, 2]),
            "node_bytes": sum(len(t) for t, chain in zip(texts, above, strict=True) if blocks[b, 2] in chain),
            "parent_good": sum(g for g, chain in zip(good, above, strict=True) if max(nodes[blocks[b, 2], 0], 0) in chain)
            / max(sum(good), 1),
            "good_before": sum(good[:b]) / max(sum(good), 1),
            "good_after": sum(good[b + 1 :]) / max(sum(good), 1),
            "prev_bytes": len(texts[b - 1]) if b else -1,
            "next2_links": blocks[b + 2, 3] / len(texts[b + 2]) if b + 2 < 25 else -1,
            "same_as_next": b < 24 and blocks[b + 1, 2] == blocks[b, 2],
            "around_bytes": sum(len(t) for t in texts[max(0, b - 4) : b + 5]),
            "page_blocks": 25,
            "page_links": blocks[:, 3].sum() / len(text),
        }
        got = {name: float(rows[b, _column(name)]) for name in expected}
        assert got == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-4, abs=1e-5)


def _ten_and_last_four(words: list[str]) -> list[str]:
    """Up to ten words from the beginning and the last four, as they stand in a ring of four."""
    return words[:10] + words[-4:]


@pytest.mark.parametrize("seed", range(3))
def test_scores_around_a_block_are_what_plain_python_finds(seed: int) -> None:
    _, nodes, blocks = _random_page(seed)
    scores = np.random.default_rng(seed).random(25).astype(np.float32)
    rows = np.zeros((25, NUM_ALL), np.float32)
    rows[:, _column("heading")] = [nodes[node, 1] == TAG["h2"] for node in blocks[:, 2]]
    look_around(nodes, 30, blocks, 25, scores, rows)
    weight = np.maximum(blocks[:, 1] - blocks[:, 0] - blocks[:, 3], 0) + 5.0

    def mean(which: list[int]) -> float:
        return float(sum(weight[i] * scores[i] for i in which) / sum(weight[i] for i in which)) if which else 0.0

    def inside(node: int) -> list[int]:
        found = []
        for i, at in enumerate(blocks[:, 2].tolist()):
            while at >= 0:
                if at == node:
                    found.append(i)
                    break
                at = int(nodes[at, 0])
        return found

    for b in range(25):
        after = []
        for i in range(b + 1, 25):
            if rows[i, _column("heading")]:
                break
            after.append(i)
        expected = {
            "score_prev": float(scores[b - 1]) if b else 0.0,
            "score_next2": float(scores[b + 2]) if b < 23 else 0.0,
            "score_around": mean(list(range(max(0, b - 5), min(25, b + 6)))),
            "score_node": mean([i for i in range(25) if blocks[i, 2] == blocks[b, 2]]),
            "score_parent": mean(inside(max(int(nodes[blocks[b, 2], 0]), 0))),
            "score_section": mean(after),
            "taken_before": float((weight * scores)[:b].sum() / (weight * scores).sum()),
            "taken_share": mean(list(range(25))),
            "most_next": float(max(scores[b + 1 : b + 6], default=0.0)),
        }
        got = {name: float(rows[b, NUM_FEATURES + CONTEXT.index(name)]) for name in expected}
        assert got == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_blocks_are_joined_by_what_they_are() -> None:
    text = np.frombuffer(b"abcdef", np.uint8)
    nodes = np.array([[-1, 0, 0, 0], [0, TAG["p"], 0, 0], [0, TAG["li"], 0, 0], [0, TAG["li"], 0, 0], [0, TAG["tr"], 0, 0],
                      [4, TAG["td"], 0, 0], [4, TAG["td"], 0, 0]], np.int32)  # fmt: skip
    blocks = np.array([[i, i + 1, node, 0, 0, 0] for i, node in enumerate([1, 1, 2, 3, 5, 6])], np.int32)
    out = np.zeros(20, np.uint8)
    size = join(text, nodes, blocks, 6, np.array([True, True, True, True, True, True]), out)
    assert bytes(out[:size]) == b"a\n\nb\n\nc\nd\ne\tf"
    size = join(text, nodes, blocks, 6, np.array([False, True, False, True, False, True]), out)
    assert bytes(out[:size]) == b"b\n\nd\n\nf"
