"""`gyral loop --live` over real processes, some of which are killed: what the tables hold is what the source has, once."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gyral.config import load
from gyral.dash import live as page
from gyral.lake.table import Lake
from gyral.model import card as cards
from gyral.model.live import places
from gyral.model.live import tables as t
from gyral.params.chain import Chain, Folder
from gyral.params.records import weights_of
from gyral.run import numbers, read_lineage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The first four days of the shop."""
    rows = pq.read_table(ROOT / "data" / "online_retail.parquet").sort_by("InvoiceDate").slice(0, 9_000)
    path = tmp_path_factory.mktemp("source") / "days.parquet"
    pq.write_table(rows, path)
    return path


def kept_rows(path):
    """What the layout's rules leave, in other words than theirs."""
    rows = pq.read_table(path)
    code = re.compile(r"\d{5}[A-Za-z]{0,2}")
    rows = rows.filter(
        pc.and_(pc.is_valid(rows["CustomerID"]), pc.and_(pc.greater(rows["Quantity"], 0), pc.greater(rows["UnitPrice"], 0)))
    )
    ok = [
        bool(code.fullmatch(item)) and not invoice.lower().startswith("c")
        for item, invoice in zip(rows["StockCode"].to_pylist(), rows["InvoiceNo"].to_pylist(), strict=True)
    ]
    return rows.filter(pa.array(ok))


def in_the_tables(root):
    """Meetings that the shards' logs hold in all, and of each object."""
    (folder,) = (root / places.FOLDER).iterdir()
    counts = {}
    for shard in (folder / places.SHARDS).glob("shard*"):
        with Chain(Folder(shard)) as chain:
            for bucket in chain.buckets([t.SEEN]):
                rows = weights_of(chain.specs[t.SEEN], bucket.records.bodies)
                counts |= dict(zip(bucket.records.keys.tolist(), rows[:, 0].tolist(), strict=True))
    return counts


def processes(word, root):
    """Processes of this test whose command says a word: they name its folder, or their parent does."""
    commands, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            commands[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    mine = {pid for pid, command in commands.items() if str(root) in command}
    found = [pid for pid, command in commands.items() if word in command and (pid in mine or parents.get(pid) in mine)]
    return sorted(found, key=lambda pid: ("--spare" in commands[pid], pid))  # a spare in the place of another is the oldest


def run(root, source, speed, *more, while_it_runs=None):
    command = [sys.executable, "-P", "-m", "gyral", "loop", "--live", "--json", "--root", str(root), "--source", str(source)]
    command += ["--speed", speed, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    ended = threading.Event()
    thread = threading.Thread(target=while_it_runs, args=(ended,)) if while_it_runs else None
    if thread:
        thread.start()
    try:
        out, err = process.communicate(timeout=240)
    finally:
        ended.set()
        process.kill()
        if thread:
            thread.join(20)
    assert process.returncode == 0, err[-3_000:]
    return json.loads(out.splitlines()[-1])


def waits_for(what, seconds=120):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def journal_lines(root):
    files = list((root / places.FOLDER).glob("*/journal.jsonl"))
    return files[0].read_bytes().count(b"\n") if files else 0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("at", "victim"),
    [("local://1", "gyral.live.learner"), ("proc://1", "gyral.params.serve"), ("proc://1", "gyral.live.learner")],
)
def test_events_are_learned_once_whoever_is_killed(tmp_path, source, at, victim):
    killed = []

    def kill(ended):
        """Three times, each after steps that the one before has done."""
        for _ in range(3):
            lines = journal_lines(tmp_path)
            waits_for(lambda lines=lines: ended.is_set() or journal_lines(tmp_path) >= lines + 2)
            if not ended.is_set() and (found := processes(victim, tmp_path)):
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])

    result = run(tmp_path, source, "16000x", "--set", f"params.at={at}", while_it_runs=kill)
    assert len(set(killed)) >= 2
    kept = kept_rows(source)
    counts = in_the_tables(tmp_path)
    assert sum(counts.values()) == kept.num_rows == result["learned"]
    sold = sorted(pair["counts"] for pair in kept["StockCode"].value_counts().to_pylist())
    assert sorted(count for count in counts.values() if count) == sold
    lake = Lake.of(tmp_path, load(tmp_path)).snapshot("events")
    purchases = lake.read(["event_id"], "kind = 'purchase'")
    assert purchases.num_rows == len(set(purchases["event_id"].to_pylist())) == 9_000


def poison(url):
    """Three robots with 1,500 purchases each in an hour, and 1,500 objects that nobody ever meets again."""
    price = {"Quantity": "1", "UnitPrice": "2.5", "Country": "France", "Description": "A THING"}
    common = {"kind": "purchase", "event_time": "2010-12-02T10:00:00Z", "schema_id": "online_retail", "props": price}
    rows = [{"subject": f"robot{at % 3}", "object": f"85{at % 7}23A"} for at in range(4_500)]
    rows += [{"subject": f"flood{at % 50}", "object": f"{60_000 + at}"} for at in range(1_500)]
    for first in range(0, len(rows), 1_000):
        events = [{"event_id": f"p{first + at}", **common, **row} for at, row in enumerate(rows[first : first + 1_000])]
        request = urllib.request.Request(f"{url}/v1/events", json.dumps(events).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["accepted"] == 1_000
        time.sleep(0.5)


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_somebody_new_is_known_within_a_second_and_learning_beats_what_is_frozen_also_among_robots(tmp_path, source):
    def pour(ended):
        log = tmp_path / "runs" / "1" / "log.txt"
        found = waits_for(lambda: ended.is_set() or (log.exists() and re.search(r"answers at (\S+),", log.read_text())))
        waits_for(lambda: ended.is_set() or journal_lines(tmp_path) >= 15)
        poison(found[1])

    limits = ("--set", "params.admit_count=2", "--set", "curate.robot_events_per_hour=300")
    result = run(tmp_path, source, "20000x", *limits, while_it_runs=pour)
    assert result["dropped"]["robot"] >= 3 * (1_500 - 300) and result["dropped"]["not_admitted"] > 1_500
    cold, fresh = result["cold_start_s"], result["freshness_s"]
    assert cold["asked"] >= 5 and cold["missed"] == 0 and cold["p50"] < 1
    assert fresh["p50"] < 1 and result["went_back"] == 0
    assert set(result["recall_at_10"]) == {"looped", "frozen", "frozen_recent", "popularity"}
    frozen = cards.read_card(cards.find(tmp_path, "days-frozen"))  # one that has learned less would say more for learning
    assert frozen.num_interactions >= 0.15 * result["learned"] and frozen.num_subjects > 40
    quality = result["ndcg_at_10"]  # of four days: learning adds less than noise to counting, and much to what is frozen
    assert result["asked"] > 100 and quality["looped"] > max(quality["frozen_recent"], 0.9 * quality["popularity"])
    assert result["rows_per_s"] > 0 and result["staleness"]
    (server,) = (each for each in map(partial(read_lineage, tmp_path), numbers(tmp_path)) if each.verb == "serve")
    taking_in_s = server.summary["taking_in_cpu_s"]
    assert 0 < taking_in_s < server.cpu_s, "events and answers are told apart"
    assert set(result["cpu_s"]) == {"population", "server", "learner", "shards"} and result["cpu_s"]["learner"] > 0
    assert taking_in_s < result["cpu_s"]["server"]
    shown = page.page(tmp_path)
    assert shown["summary"]["recall_at_10"] == result["recall_at_10"] and shown["live"]["num_points"] >= 5
    assert shown["live"]["points"][-1]["recall"] == shown["live"]["recall_at_10"]
