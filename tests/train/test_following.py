"""`gyral train lake:` beside processes that bring documents in: killed, gone on with, by several ranks, to the end.

A run is judged by a replay: one process that was never interrupted, over the ranges that the run wrote, whose every batch is
compared with what Lance alone reads from the lake.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import lance
import pytest

from gyral import config as configs
from gyral.model import card as cards
from gyral.train.ranges import FILE, Ranges
from gyral.train.rank import Job, work
from gyral.train.tasks import open_task

from .. import verbs

LENGTH, BATCH = 32, 8
SIZES = ["lm.depth=1", "lm.width=32", f"lm.length={LENGTH}", f"train.batch={BATCH}", "train.steps=1000"]
SIZES += ["curate.stages=['extract', 'repair', 'digest']", "train.optim.schedule=constant"]
SETS = [word for size in SIZES for word in ("--set", size)]
WORDS = ["the", "gyre", "turns", "and", "what", "it", "carries", "comes", "back", "another", "day", "as", "many", "do"]
ROUNDED = 1e-3
"""Of two ranks' sums, in other orders than one's: a hundred steps of Muon make 2e-6 of it, once in 12 runs 6e-5. Batches that
follow one another differ by 5e-2."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "GYRAL_NO_PROGRESS": "1"}


def command(root, *words):
    return [sys.executable, "-P", "-m", "gyral", *words, "--root", str(root)]


def gyral(root, *words, fault="", ok=True):
    done = verbs.gyral(*words, "--root", root, GYRAL_FAULT=fault)
    assert not ok or done.returncode == 0, done.stderr
    return done


def train(root, *words, idle_s=0.5, **asked):
    done = gyral(
        root, "train", "lake:wiki", "--family", "lm", *SETS, "--set", f"train.stream.idle_s={idle_s}", *words, "--json", **asked
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done


def texts(number, count):
    generator = random.Random(number)
    return [f"{number}.{each} " + " ".join(generator.choices(WORDS, k=generator.randint(10, 60))) for each in range(count)]


def ingest(root, number, count):
    """`gyral ingest` of a file of documents, in a process of its own."""
    path = root / f"new{number}.csv"
    rows = [f"page{number}-{at},{1_700_000_000 + at},document,wiki,text,{text}" for at, text in enumerate(texts(number, count))]
    path.write_text("\n".join(["object,event_time,kind,app,media,text,subject", *(row + "," for row in rows)]))
    gyral(root, "ingest", "--source", str(path))


def ledger(root, run):
    path = root / "runs" / str(run) / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def newest(root, before=0):
    """The last run that followed the lake; `before` where there is none after it."""
    return max([before, *(int(path.parent.name) for path in root.glob(f"runs/*/{FILE}"))])


def wait_for_steps(root, num, running, run=0):
    """Until a run after `run` has done so many."""
    end = time.monotonic() + 90
    while (mine := newest(root, run)) == run or len(ledger(root, mine)) < num:
        assert time.monotonic() < end and running.poll() is None
        time.sleep(0.05)
    return mine


def trained_on(root, share=0.1):
    """Place in the log → text, of documents that are not kept aside by their hash, read by Lance alone."""
    rows = lance.dataset(str(root / "lake" / "events")).to_table().to_pylist()
    rows.sort(key=lambda row: (row["src_partition"], row["src_offset"], row["src_index"]))

    def is_aside(text):
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return int.from_bytes(hashlib.blake2b(digest, digest_size=8, key=b"held out").digest(), "little") < share * 2**64

    return {
        (row["src_partition"], row["src_offset"], row["src_index"]): json.loads(row["props"])["text"]
        for row in rows
        if not is_aside(json.loads(row["props"])["text"])
    }


def examples_of(root, folder):
    """The examples of the ranges of a run one after the other, cut from the lake by Lance alone."""
    there = trained_on(root)
    tokens = []
    for each in Ranges(folder).ranges:
        inside = [
            text
            for (partition, offset, _), text in there.items()
            if each.since.get(partition, 0) <= offset < each.until.get(partition, 0)
        ]
        for text in inside:
            if hashlib.blake2b(text.encode(), digest_size=16).hexdigest() != each.also:
                tokens += [*text.encode(), 256]
    return [tuple(tokens[at : at + LENGTH]) for at in range(0, len(tokens) - LENGTH + 1, LENGTH)]


def replayed(root, run, tmp_path, steps):
    """Losses of an undisturbed process over the ranges of a run, and the rows of each step."""
    folder = tmp_path / f"replay{run}"
    folder.mkdir()
    shutil.copy(root / "runs" / str(run) / FILE, folder)
    config = configs.load(root, [*SIZES, "train.family=lm", "train.stream.idle_s=0.1"])
    task, seen = open_task(root, "lake:wiki", config), []

    def batch(examples, step, made=task.batch):
        found = made(examples, step)
        seen.append([tuple(row) for row in found["targets"].tolist()])
        return found

    task.batch = batch
    trained = work(Job(str(root), "lake:wiki", str(folder), steps, config), task=task)
    return trained.result.loss, seen


def check(root, run, tmp_path, tolerance=1e-6):
    """A run learned each example once, in the steps of its replay."""
    lines = ledger(root, run)
    assert [line["step"] for line in lines] == list(range(len(lines)))
    assert [line["first"] for line in lines] == [BATCH * step for step in range(len(lines))]
    losses, seen = replayed(root, run, tmp_path, len(lines))
    assert len(losses) == len(lines)
    assert max(abs(line["loss"] - loss) for line, loss in zip(lines, losses, strict=True)) <= tolerance
    wanted = examples_of(root, root / "runs" / str(run))
    there = Ranges(root / "runs" / str(run))
    assert len(wanted) == there.examples
    rows = [row for step in seen for row in step]
    first = 0
    for each in there.ranges:
        mine = rows[first : each.examples]
        left = sorted(wanted[first : each.examples])
        assert len(mine) == len(left) or each.examples > len(rows)
        for row in mine:
            left.remove(row)  # each once
        first = each.examples
    return there


@pytest.fixture
def wiki(tmp_path, arrive):
    """A project with a lake of 30 documents."""
    root = tmp_path / "project"
    root.mkdir()
    arrive(root, texts(0, 30))
    return root


def test_documents_that_another_process_brings_in_while_it_trains_are_learned(wiki, tmp_path):
    words = ["--set", "train.stream.idle_s=20", "--json"]  # longer than a verb takes to begin on a busy machine
    running = verbs.popen(
        command(wiki, "train", "lake:wiki", "--family", "lm", *SETS, *words), stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    for number in (1, 2):
        wait_for_steps(wiki, 5 * number, running)
        ingest(wiki, number, 20)
    told = json.loads(running.communicate(timeout=150)[0].splitlines()[-1])
    there = check(wiki, newest(wiki), tmp_path)
    assert len(there.ranges) == 3 and sum(each.events for each in there.ranges) == 70
    assert told["stream"]["ended"] == "idle" and told["steps"] == there.end.steps == there.examples // BATCH == len(
        told["loss"]
    )
    assert told["stream"]["unread"] == there.end.unread == there.examples % BATCH
    assert told["loss"][-1] < told["loss"][0] - 0.5 and 0 < told["metrics"]["bits_per_byte"] < 8
    assert cards.read_card(cards.find(wiki, told["model"])).num_interactions == sum(each.documents for each in there.ranges)


@pytest.mark.parametrize(
    "fault",
    ["stream.written:4", *(pytest.param(each, marks=pytest.mark.slow) for each in ("stream.range:3", "checkpoint.publish:3"))],
)
def test_a_run_that_is_killed_goes_on_with_the_same_examples(wiki, arrive, tmp_path, fault):
    """Before a range is written, between that and its first step, and while a checkpoint is published."""
    arrive(wiki, texts(1, 20))
    arrive(wiki, texts(2, 20))
    small = ["--set", "train.stream.documents=20", "--set", "train.checkpoint_every=4"]
    done = train(wiki, *small, fault=fault, ok=False)
    run = newest(wiki)
    assert done.returncode == -signal.SIGKILL
    before = Ranges(wiki / "runs" / str(run))
    with open(before.path, "ab") as file:
        file.write(b'{"type":"range","number":9,"since":{"x"')  # and a line was torn
    arrive(wiki, texts(3, 20))
    gyral(wiki, "train", "--resume", str(run), *SETS, "--set", "train.stream.idle_s=0.5", "--parallel", "")
    there = check(wiki, newest(wiki), tmp_path)
    assert there.ranges[: len(before.ranges)] == before.ranges and len(before.ranges) < 4
    assert sum(each.events for each in there.ranges) == 90 and there.end.why == "idle"


def test_two_ranks_learn_what_one_learns(wiki, arrive, tmp_path):
    for number in (1, 2):
        arrive(wiki, texts(number, 10))
    told = train(wiki, "--parallel", "data=2", "--set", "train.stream.documents=1")
    there = check(wiki, newest(wiki), tmp_path, tolerance=2e-6)
    assert told["ranks"] == 2 and len(there.ranges) == 3 and told["stream"]["ended"] == "idle"


@pytest.mark.slow
def test_a_stream_that_has_ended_is_gone_on_with_when_more_has_come(wiki, arrive, tmp_path):
    first = train(wiki)
    run = newest(wiki)
    arrive(wiki, texts(1, 30))
    done = gyral(wiki, "train", "--resume", str(run), *SETS, "--set", "train.stream.idle_s=0.5", "--json")
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["steps"] > first["steps"] and told["loss"][: first["steps"]] == first["loss"]
    check(wiki, newest(wiki), tmp_path)
    assert Ranges(wiki / "runs" / str(run)).end.steps == first["steps"]


@pytest.mark.slow
def test_a_lake_that_says_nothing_is_told(tmp_path):
    done = train(tmp_path, idle_s=0.2, ok=False)
    assert done.returncode == 1 and "no new documents of `lake:wiki` came into the lake within 0.2 s" in done.stderr
    done = gyral(tmp_path, "train", "lake:wiki", "--family", "vision", ok=False)
    assert done.returncode == 2 and "is a live stream of texts" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["", "data=2"])
def test_random_kills_while_documents_come(wiki, tmp_path, parallel):
    """Killed three times at any moment, gone on with each time, while another process brings documents in."""
    generator = random.Random(len(parallel))
    also = ["--set", "train.stream.idle_s=30", "--set", "train.checkpoint_every=3", "--parallel", parallel]
    run = number = 0
    for kill in range(3):
        words = ["--resume", str(run)] if run else ["lake:wiki", "--family", "lm"]
        with open(tmp_path / f"log{kill}", "wb") as log:
            running = verbs.popen(
                command(wiki, "train", *words, *SETS, *also), stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True
            )
        wanted, end = len(ledger(wiki, run)) + 4, time.monotonic() + 90
        while (mine := newest(wiki, run)) == run or len(ledger(wiki, mine)) < wanted:
            assert time.monotonic() < end and running.poll() is None, (tmp_path / f"log{kill}").read_text()
            number += 1
            ingest(wiki, number, 8)
        time.sleep(generator.random())
        os.killpg(running.pid, signal.SIGKILL)
        running.wait(10)
        run = mine
    gyral(wiki, "train", "--resume", str(run), *SETS, "--set", "train.stream.idle_s=1", "--parallel", "")
    there = check(wiki, newest(wiki), tmp_path, tolerance=ROUNDED if parallel else 1e-6)
    assert sum(each.events for each in there.ranges) == 30 + 8 * number


@pytest.mark.slow
def test_members_that_die_go_on_with_the_same_examples(wiki, arrive, tmp_path):
    for number in (1, 2, 3):
        arrive(wiki, texts(number, 20))
    words = ["--parallel", "elastic=2", "--set", "train.stream.documents=1", "--set", "train.elastic.leaves=4"]
    words += ["--set", "train.stream.idle_s=5", "--json"]
    done = gyral(wiki, "train", "lake:wiki", "--family", "lm", *SETS, *words, fault="stream.written:2")
    told = json.loads(done.stdout.splitlines()[-1])
    assert "SIGKILL" in done.stderr and "is started again" in done.stderr
    there = check(wiki, newest(wiki), tmp_path, tolerance=ROUNDED)
    assert told["stream"]["ended"] == "idle" and len(there.ranges) == 4
