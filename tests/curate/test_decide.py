"""Decisions from stored signals, against plain Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.config import Config, load
from gyral.curate import decide, edits, store
from gyral.curate.decide import Decisions
from gyral.curate.near_texts import distinct
from gyral.curate.stage import CUTS, DOCUMENT, Cut, Limit, Stage, add, numbers
from gyral.curate.text.digest import Digest
from gyral.curate.text.paragraphs import Paragraphs, keep_first
from gyral.lake.dataset import Rule
from gyral.lake.documents import ShardFiles

PARAGRAPH = Rule("duplicate_paragraphs", "dedup.max_repeated_share", 0.9)


@dataclass(frozen=True)
class Length(Stage):
    """Characters of a text, and whether it shouts."""

    name: ClassVar[str] = "length"

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = [text or "" for text in batch.column("text").to_pylist()]
        mood = [None if not text else "loud" if text.isupper() else "calm" for text in texts]
        return add(batch, {"chars": pa.array([len(text) for text in texts]), "mood": pa.array(mood, pa.string())})

    def limits(self, config: Config) -> Sequence[Limit]:
        return [
            Limit("short", "length.min", ["chars"], lambda columns: numbers(columns, "chars"), "<", 3),
            Limit("loud", "length.mood", ["mood"], lambda columns: columns["mood"], "not in", ("calm",)),
        ]


def shards_of(
    folder: Path, texts: Sequence[str | None], stages: Sequence[Stage], per_shard: int = 3, **columns
) -> list[ShardFiles]:
    files = []
    for number, start in enumerate(range(0, len(texts), per_shard)):
        rows = [
            {"file": f"{row:04d}.txt", "offset": -1, "media": "text", "text": texts[row]}
            | {name: values[row] for name, values in columns.items()}
            for row in range(start, min(start + per_shard, len(texts)))
        ]
        batch = pa.RecordBatch.from_pylist([{name: row.get(name) for name in DOCUMENT.names} for row in rows], DOCUMENT)
        for stage in stages:
            batch = stage(batch)
        stored = store.write(folder / str(number), str(number), [iter([batch])])
        names = store.names(0)
        files.append(ShardFiles(folder / str(number) / names[0], folder / str(number) / names[1], stored.shards[0].rows))
    return files


def reasons(decisions: Decisions) -> list[str]:
    return [decisions.rules[number].reason for number in decisions.rule]


def test_the_first_limit_that_holds_gives_the_reason(tmp_path):
    texts = ["a calm text", "NO", "LOUD TEXT", None, "fine", "x"]
    rejected = [None, None, None, "corrupt_record", None, "too_large"]
    stages = [Digest(), Length()]
    shards = shards_of(tmp_path, texts, stages, rejected=rejected)
    decisions = decide.by_limits(shards, decide.limits_of(stages, Config()))
    assert reasons(decisions) == ["", "short", "loud", "corrupt_record", "", "too_large"]
    assert decisions.value[1] == 2 and np.isnan(decisions.value[2])
    assert decisions.dropped() == {"short": 1, "loud": 1, "corrupt_record": 1, "too_large": 1}
    rule = decisions.rules[decisions.rule[1]]
    assert (rule.rule, rule.threshold, rule.signal) == ("length.min", 3, "chars")


@pytest.mark.parametrize(
    ("op", "field", "value", "dropped"),
    [
        ("<", "chars", 5, [1, 3]), (">=", "chars", 9, [0, 2]), ("==", "mood", "loud", [1, 2]), ("!=", "mood", "calm", [1, 2]),
        ("matches", "text_", "x", []), ("matches", "mood", "^lo", [1, 2]), ("not matches", "mood", "^lo", [0, 3]),
        ("is null", "mood", None, []), ("<", "nothing", 5, []),
    ],
)  # fmt: skip
def test_rules_of_a_project_look_at_any_signal(tmp_path, op, field, value, dropped):
    texts = ["a calm text", "NO", "LOUD TEXT", "fine"]
    shards = shards_of(tmp_path, texts, [Length()])
    (tmp_path / "gyral.toml").write_text(
        f'[[curate.rules]]\nreason = "mine"\nfield = "{field}"\nop = "{op}"\n'
        + ("" if value is None else f"value = {value!r}\n")
    )
    config = load(tmp_path)
    decisions = decide.by_limits(shards, [decide.REJECTED, *map(decide.own_limit, config.curate.rules)])
    assert np.flatnonzero(~decisions.is_kept).tolist() == dropped


def test_exact_duplicates_go_to_the_first_kept_document(tmp_path):
    texts = ["same", "other", "same", "same", None, "", "NO", "NO"]
    stages = [Digest(), Length()]
    shards = shards_of(tmp_path, texts, stages, rejected=["damaged", *[None] * 7])
    decisions = decide.by_limits(shards, decide.limits_of(stages, Config()))
    decide.exact(shards, decisions)
    assert reasons(decisions) == ["damaged", "", "", "duplicate_exact", "empty", "empty", "short", "short"]
    assert decisions.twin.tolist() == [-1, -1, -1, 2, -1, -1, -1, -1] and decisions.jaccard[3] == 1


@given(st.lists(st.sampled_from(["a", "b", "c", "d", ""]), min_size=1, max_size=40))
def test_distinct_texts_are_numbered_by_their_first_document(texts):
    digests = np.array([[0, 0] if not text else [ord(text) % 2, ord(text)] for text in texts], np.uint64)
    found = distinct(digests)
    seen: dict[str, int] = {}
    for text in filter(None, texts):
        seen.setdefault(text, len(seen))
    assert found.node_of.tolist() == [seen.get(text, -1) for text in texts]
    assert found.first.tolist() == [texts.index(text) for text in seen]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9)), max_size=6), max_size=9),
    st.sampled_from([0.3, 0.6, 1.0]),
)
def test_a_paragraph_is_kept_once_and_what_is_little_else_goes(documents, share):
    starts = np.cumsum([0, *map(len, documents)])
    hashes = np.array([number * 2 + 8 for document in documents for number, _ in document], np.uint64)
    sizes = np.array([size for document in documents for _, size in document], np.int64)
    left = np.array([sum(size for _, size in document) + 2 for document in documents], np.int64)
    is_repeated, is_dropped = keep_first(starts, hashes, sizes, left, share)
    seen: set[int] = set()
    expected, dropped = [], []
    for document, size in zip(documents, left, strict=True):
        mine: set[int] = set()
        gone = 0
        for number, length in document:
            expected.append(number in seen or number in mine)
            gone += length * expected[-1]
            mine.add(number)
        dropped.append(gone > share * size)
        seen |= set() if dropped[-1] else mine
    assert is_repeated.tolist() == expected and is_dropped.tolist() == dropped


def test_ranges_of_several_cuts_never_overlap(tmp_path):
    texts = ["0123456789", "abcdefghij", "dropped"]
    batch = pa.RecordBatch.from_pylist([{"file": f"{n}", "text": text} for n, text in enumerate(texts)])
    batch = add(batch, {"one": pa.array([[2, 5, 8, 10], [], [0, 3]], CUTS), "two": pa.array([[4, 9], None, None], CUTS)})
    pq.write_table(pa.Table.from_batches([batch]), tmp_path / "signals.parquet")
    shards = [ShardFiles(tmp_path / "text", tmp_path / "signals.parquet", 3)]
    decisions = Decisions(3)
    decisions.drop(np.array([2]), Rule("gone"))
    ranges = edits.Ranges()
    cuts = [Cut("one", "a.b", ""), Cut("two", "c.d", "<X>")]
    edits.of_stages(shards, decisions, cuts, ranges)
    rows = ranges.table(cuts, decisions.is_kept).to_pylist()
    assert [(row["row"], row["begin"], row["end"], row["rule"], row["replacement"]) for row in rows] == [
        (0, 2, 5, "a.b", ""), (0, 5, 9, "c.d", "<X>"), (0, 9, 10, "a.b", ""),
    ]  # fmt: skip


def test_documents_that_repeat_paragraphs_lose_them(tmp_path):
    note = "This note stands at the end of every page of the whole manual, word for word."
    texts = [f"First page.\n\n{note}\n\nIts own end.", f"{note}", f"Second page has more to say than that.\n\n{note}"]
    shards = shards_of(tmp_path, texts, [Digest(), Paragraphs()])
    decisions = Decisions(3)
    ranges = edits.Ranges()
    assert edits.of_paragraphs(shards, decisions, 0.9, PARAGRAPH, 0, ranges) == (3, 2)
    assert reasons(decisions) == ["", "duplicate_paragraphs", ""]
    rows = ranges.table([Cut("paragraphs", "dedup.paragraphs", "")], decisions.is_kept).to_pylist()
    assert [(row["row"], texts[2][row["begin"] : row["end"]]) for row in rows] == [(2, note)]


def test_who_stands_for_another_loses_paragraphs_and_stays(tmp_path):
    note = "This note stands at the end of every page of the whole manual, word for word."
    shards = shards_of(tmp_path, [f"First page.\n\n{note}", note, f"{note} "], [Digest(), Paragraphs()])
    decisions = Decisions(3)
    decisions.repeat(np.array([2]), Rule("duplicate_near"), np.array([1]), 0.9)
    ranges = edits.Ranges()
    edits.of_paragraphs(shards, decisions, 0.9, PARAGRAPH, 0, ranges)
    assert reasons(decisions) == ["", "", "duplicate_near"]
    rows = ranges.table([Cut("paragraphs", "dedup.paragraphs", "")], decisions.is_kept).to_pylist()
    assert [(row["row"], row["begin"], row["end"]) for row in rows] == [(1, 0, len(note))]
