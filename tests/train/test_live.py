"""What a step of a live stream trains on: each token of the lake once, in one step whoever reads it; judged by the lake."""

import hashlib
import json
import random
import threading

import lance
import numpy as np
import pytest

from gyral import config as configs
from gyral.errors import InputError, UsageError
from gyral.lake.table import Lake
from gyral.train.loader import Ended
from gyral.train.ranges import Ranges
from gyral.train.tasks import open_task

LENGTH, BATCH = 16, 4
SETS = ["curate.stages=['extract', 'repair', 'digest']", "train.family=lm", f"lm.length={LENGTH}", f"train.batch={BATCH}"]
SETS += ["lm.depth=1", "lm.width=32", "train.stream.idle_s=0.3"]
WORDS = ["the", "gyre", "turns", "and", "what", "it", "carries", "comes", "back", "another", "day", "as", "many", "do"]


def texts(number, count, words=12):
    generator = random.Random(number)
    return [f"{number}.{each} " + " ".join(generator.choices(WORDS, k=generator.randint(1, words))) for each in range(count)]


def following(root, folder, *sets):
    """The task and the order of a run in a folder."""
    config = configs.load(root, [*SETS, *sets])
    task = open_task(root, "lake:", config)
    folder.mkdir(exist_ok=True)
    return task, task.live.order(folder, BATCH, config.train.seed)


def steps_of(task, order, first=0):
    """Targets [B, T] of each step until the stream has ended."""
    found = []
    while True:
        try:
            examples = order.examples(first + len(found))
        except Ended:
            return found
        found.append(task.batch(examples, 0)["targets"].numpy())


def is_aside(text, share=0.1):
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    rank = hashlib.blake2b(digest, digest_size=8, key=b"held out").digest()
    return int.from_bytes(rank, "little") < share * 2**64


def in_the_lake(root):
    """Texts of the lake in the order of the log, read by Lance alone."""
    rows = lance.dataset(str(root / "lake" / "events")).to_table().to_pylist()
    rows.sort(key=lambda row: (row["src_partition"], row["src_offset"], row["src_index"]))
    return [json.loads(row["props"])["text"] for row in rows]


def sequences(some):
    """Rows of tokens of texts one after the other, each ended by 256."""
    tokens = [token for text in some for token in [*text.encode(), 256]]
    return [tuple(tokens[at : at + LENGTH]) for at in range(0, len(tokens) - LENGTH + 1, LENGTH)]


def rows_of(steps):
    return [tuple(row) for step in steps for row in step.tolist()]


@pytest.fixture
def lake(tmp_path, arrive):
    """A lake of 6 batches of 5 to 10 texts, 47 in all."""
    for number in range(6):
        found = arrive(tmp_path, texts(number, 5 + number))
    return found


@pytest.mark.parametrize("documents", [1, 12, 2048])
def test_each_example_comes_once_and_none_is_skipped(tmp_path, lake, documents):
    task, order = following(tmp_path, tmp_path / "run", f"train.stream.documents={documents}")
    rows = rows_of(steps_of(task, order))
    ranges = Ranges(tmp_path / "run")
    assert len(ranges.ranges) == {1: 6, 12: 5, 2048: 1}[documents]
    wanted = sequences(text for text in in_the_lake(tmp_path) if not is_aside(text))
    assert len(wanted) == ranges.examples and len(rows) == len(wanted) // BATCH * BATCH
    assert ranges.end.unread == len(wanted) - len(rows) and ranges.end.why == "idle" and ranges.end.steps == len(rows) // BATCH
    # A range's own, in another order; the last batch may leave some of the last range.
    first = 0
    for each in ranges.ranges[:-1]:
        assert sorted(rows[first : each.examples]) == sorted(wanted[first : each.examples])
        first = each.examples
    assert not set(rows[first:]) - set(wanted[first:]) and len(rows[first:]) <= len(wanted[first:])
    assert documents == 1 or rows != wanted[: len(rows)]


def test_whoever_reads_the_ranges_again_has_the_same_steps_whatever_came_and_moved_since(tmp_path, lake, arrive):
    task, order = following(tmp_path, tmp_path / "run", "train.stream.documents=12")
    steps = steps_of(task, order)
    num_fragments = lake.snapshot("events").num_fragments
    assert lake.snapshot("events").compact().num_fragments < num_fragments
    arrive(tmp_path, texts(9, 30))
    task, order = following(tmp_path, tmp_path / "run", "train.stream.documents=3", "train.seed=0")
    assert all(np.array_equal(*pair) for pair in zip(steps_of(task, order), steps, strict=True))
    task, order = following(tmp_path, tmp_path / "run")
    for step in random.Random(0).sample(range(len(steps)), 8):  # any step, in any order, and any row of it alone
        examples = order.examples(step)
        assert np.array_equal(task.batch(examples[1:3], 0)["targets"], steps[step][1:3])


def test_what_comes_between_two_looks_is_the_next_range_and_what_was_left_over_begins_it(tmp_path, arrive):
    arrive(tmp_path, ["0123456789" * 4])
    task, order = following(tmp_path, tmp_path / "run", "train.batch=1", "train.stream.idle_s=5")
    order = task.live.order(tmp_path / "run", 1, 0)
    rows = [task.batch(order.examples(step), 0)["targets"][0].tolist() for step in (0, 1)]
    lake = arrive(tmp_path, ["abcdefg" * 3, "gfedcba" * 3])
    rows.append(task.batch(order.examples(2), 0)["targets"][0].tolist())
    assert sorted(map(bytes, rows[:2])) == [b"0123456789012345", b"6789012345678901"]
    assert rows[2][:9] == [*b"23456789", 256] and bytes(rows[2][9:]) in (b"abcdefg", b"gfedcba")
    assert [each.events for each in Ranges(tmp_path / "run").ranges] == [1, 2]
    assert [each.aside for each in Ranges(tmp_path / "run").ranges] == [0, 1]  # something must be measured on
    assert lake.snapshot("events").version >= Ranges(tmp_path / "run").ranges[1].version


def test_what_is_kept_aside_is_never_trained_on_and_what_came_later_is_not_measured_on(tmp_path, lake):
    task, order = following(tmp_path, tmp_path / "run", "train.stream.documents=1", "lm.held_out=0.5")
    order.examples(0)
    early = task.live.held_out().num_bytes
    steps = steps_of(task, order)
    aside = [text for text in in_the_lake(tmp_path) if is_aside(text, 0.5)]
    assert 0 < early < task.live.held_out().num_bytes == sum(len(text.encode()) for text in aside)
    rows = set(rows_of(steps))
    assert not rows & set(sequences(aside))
    wanted = [text for text in in_the_lake(tmp_path) if not is_aside(text, 0.5)]
    assert rows <= set(sequences(wanted))
    # Whoever goes on at a step measures on what had come until then.
    again, order = following(tmp_path, tmp_path / "run", "lm.held_out=0.5")
    order.examples(0)
    assert again.live.held_out().num_bytes == early


def test_where_nothing_is_kept_aside_by_its_hash_one_text_is_and_its_copies_stay_so(tmp_path, arrive):
    trained = [text for text in texts(3, 30) if not is_aside(text)][:6]
    arrive(tmp_path, trained)
    arrive(tmp_path, trained)
    task, order = following(tmp_path, tmp_path / "run", "train.stream.documents=1")
    rows = rows_of(steps_of(task, order))
    digests = sorted(trained, key=lambda text: hashlib.blake2b(text.encode(), digest_size=16).digest())
    assert task.live.held_out().num_bytes == len(digests[0].encode())
    assert [(each.documents, each.aside) for each in Ranges(tmp_path / "run").ranges] == [(5, 1), (5, 1)]
    others = [text for text in trained if text != digests[0]] * 2
    assert set(rows) <= set(sequences(others))


def test_a_range_that_somebody_was_erased_from_is_refused_by_name(tmp_path, arrive):
    arrive(tmp_path, texts(1, 10))
    lake = arrive(tmp_path, texts(2, 10), subject="ann")
    task, order = following(tmp_path, tmp_path / "run", "train.stream.documents=1")
    steps = steps_of(task, order)
    lake.snapshot("events").erase("subject = 'ann'")
    task, order = following(tmp_path, tmp_path / "run")
    assert np.array_equal(task.batch(order.examples(0), 0)["targets"], steps[0])  # a range that is whole is read
    with pytest.raises(InputError) as caught:
        task.batch(order.examples(len(steps) - 1), 0)
    assert "range 1 of `lake:` is not what was written down" in str(caught.value)
    assert "it had 10 events and has 0: some were erased" in str(caught.value) and "gyral train lake:" in caught.value.hint
    assert task.live.held_out().num_bytes  # what is left is measured on


def test_other_settings_of_curate_are_told_from_erased_rows(tmp_path, arrive):
    arrive(tmp_path, texts(1, 10))
    task, order = following(tmp_path, tmp_path / "run")
    order.examples(0)
    rule = "curate.rules=[{reason='one', field='file', op='==', value='page 1'}]"
    task, order = following(tmp_path, tmp_path / "run", rule)
    with pytest.raises(InputError) as caught:
        task.batch(order.examples(0), 0)
    assert "the settings of `curate` are others" in str(caught.value)


def test_a_stream_that_never_begins_is_an_error_that_says_what_was_waited_for(tmp_path, arrive):
    _, order = following(tmp_path, tmp_path / "run")
    with pytest.raises(InputError) as caught:
        order.examples(0)
    assert "no new documents of `lake:` came into the lake within 0.3 s" in str(caught.value)
    assert "`--set train.stream.idle_s=0.6`" in caught.value.hint
    arrive(tmp_path, ["too little to begin with, as it fills no batch", "x"])
    with pytest.raises(InputError) as caught:
        order.examples(0)
    assert "examples of 16 tokens, and a batch has 4" in str(caught.value)
    assert Ranges(tmp_path / "run").end is None  # it may be begun again


def test_from_now_on_means_from_when_the_run_began(tmp_path, lake, arrive):
    following(tmp_path, tmp_path / "run", "train.stream.begin=new")
    arrive(tmp_path, texts(7, 20))
    task, order = following(tmp_path, tmp_path / "run", "train.stream.begin=new")  # begun again, and nothing missed
    rows = rows_of(steps_of(task, order))
    assert rows and set(rows) <= set(sequences(text for text in in_the_lake(tmp_path)[-20:] if not is_aside(text)))


def test_two_readers_write_one_ledger(tmp_path, lake):
    found = {}

    def read(name):
        task, order = following(tmp_path, tmp_path / "run", "train.stream.documents=1")
        found[name] = steps_of(task, order)

    threads = [threading.Thread(target=read, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found["a"]) == len(found["b"]) > 5
    assert all(np.array_equal(*pair) for pair in zip(found["a"], found["b"], strict=True))
    assert [each.number for each in Ranges(tmp_path / "run").ranges] == list(range(6))


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["lm.tokens=shards"], "has no tokens that `curate` wrote"),
        (["train.parallel='elastic=2'", "train.stream.idle_s=120"], "is not below `train.elastic.timeout_s = 120`"),
    ],
)
def test_what_cannot_be_followed_is_refused(tmp_path, sets, told):
    with pytest.raises(UsageError) as caught:
        following(tmp_path, tmp_path / "run", *sets)
    assert told in str(caught.value)
    assert not Lake(tmp_path).exists("events")
