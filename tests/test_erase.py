"""Somebody is erased: from everything that was made of them, and from what comes of them later."""

import json
import shutil
import threading
import time

import pyarrow as pa
import pytest

from gyral.config import Config
from gyral.erase import erase
from gyral.errors import ConflictError, GyralError
from gyral.event.codec import encode_payload
from gyral.event.schema import QUARANTINE
from gyral.event.wire import check_json, to_columns
from gyral.ingest.drain import Drain
from gyral.lake import dataset as datasets
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
from gyral.model import card as cards
from gyral.model.family import ServableRecommender
from gyral.run import Run

from . import verbs

WHO = "customer-4f1c9a7be03d52886a1b0c9d"
NOW_US = 1_790_000_000_000_000


def files_with(root, text):
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def gyral(root, *words):
    return verbs.gyral(*words, "--root", root)


def write_rows(path):
    rows = ["subject,object,event_time,note"]
    for number in range(1_200):
        who = WHO if number % 40 == 7 else f"c{number % 40}"
        rows.append(f"{who},o{number * 7 % 30},{1_600_000_000 + number * 977},n{number}")
    rows.append(f"{WHO},o1,yesterday,a bad time")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def source(tmp_path):
    """A shop of 40 customers, one of whom has a name that is found nowhere by chance."""
    return write_rows(tmp_path / "shop.csv")


@pytest.fixture(scope="module")
def first_shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    source, root = write_rows(folder / "shop.csv"), folder / "project"
    for line in (f"ingest --source {source}", "curate shop", "train shop --budget 1s", "compress shop"):
        done = gyral(root, *line.split())
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def shop(first_shop, tmp_path):
    """A project that was made of it."""
    return shutil.copytree(first_shop, tmp_path / "project")


def test_nothing_of_somebody_who_was_erased_is_left_and_nothing_of_others_is_lost(shop, source):
    lake = Lake(shop)
    before = lake.snapshot("events").read(["event_id", "subject"])
    others = [row for row in before.to_pylist() if row["subject"] != WHO]
    reasons = datasets.find(shop, "shop").why(lake, others[0]["event_id"])
    assert len(files_with(shop, WHO)) >= 5
    done = gyral(shop, "erase", WHO, "--json")
    assert done.returncode == 0, done.stderr
    receipt = json.loads(done.stdout.splitlines()[-1])
    assert receipt["rows"] == {"events": 30, "quarantine": 1} and receipt["datasets"] == {"shop@1": 30}
    assert receipt["models"] == receipt["trained_on"] == ["shop-int8@1", "shop@1"]
    assert receipt["found"] == [] and receipt["searched_bytes"]
    assert files_with(shop, WHO) == []
    after = lake.snapshot("events")
    assert after.read(["event_id", "subject"]).to_pylist() == others  # in their order
    assert after.facts.rows == len(others) and after.facts.counts["schema_id"] == {"envelope": len(others)}
    data = datasets.find(shop, "shop")
    assert data.manifest.rows_kept == len(others) and data.manifest.subjects == 39 and len(data.manifest.erased) == 1
    assert data.read().num_rows == len(others)
    assert datasets.find(shop, "shop").why(lake, others[0]["event_id"]) == reasons
    model = ServableRecommender(cards.find(shop, "shop"))
    assert not model.recommend(WHO, 5, {}).known and not model.recommend("", 5, {}).known
    assert model.recommend("c8", 5, {}).known and len(model.recommend("c8", 5, {}).items) == 5
    # the same rows again: known ones are known, theirs are dropped
    again = gyral(shop, "ingest", "--source", str(source), "--json")
    assert json.loads(again.stdout.splitlines()[-1])["accepted"] == 0
    source.write_text(source.read_text() + f"{WHO},o9,1700000000,new\nc1,o9,1700000001,new\n{WHO},o9,never,new\n")
    again = gyral(shop, "ingest", "--source", str(source), "--json")
    assert json.loads(again.stdout.splitlines()[-1])["accepted"] >= 1
    assert files_with(shop, WHO) == [] and lake.snapshot("quarantine").count() == 0
    assert gyral(shop, "curate", "shop").returncode == 0
    assert lake.snapshot("events").count(f"subject = '{WHO}'") == 0


def test_decisions_stay_with_their_rows_when_fragments_change_places(tmp_path, source, monkeypatch):
    """Fragments that lose rows are written anew behind those that do not."""
    monkeypatch.setattr("gyral.lake.snapshot.MERGED_ROWS", 30)
    root = tmp_path / "project"
    text = source.read_text().splitlines()
    quiet = [line for line in text[1:] if not line.startswith(WHO)]
    rows = [*quiet[:400], *(line for line in text[1:] if line.startswith(WHO)), *quiet[400:600], *quiet[:100]]
    source.write_text("\n".join([text[0], *rows]) + "\n")
    sizes = ("--set", "ingest.batch_rows=100", "--set", "ingest.commit_rows=100")
    assert gyral(root, "ingest", "--source", str(source), *sizes).returncode == gyral(root, "curate", "shop").returncode == 0
    data, lake = datasets.find(root, "shop"), Lake(root)
    events = lake.snapshot("events").read(["event_id", "subject"]).to_pylist()
    others = [row["event_id"] for row in events if row["subject"] != WHO]
    before = {each: data.why(lake, each)["reason"] for each in others[::9]}
    with Run.start(root, "erase", Config()) as run:
        assert erase(root, Config(), run, WHO).found == []
    after = lake.snapshot("events").read(["event_id"])["event_id"].to_pylist()
    assert sorted(after) == sorted(others) and after != others
    data = datasets.find(root, "shop")
    assert {each: data.why(lake, each)["reason"] for each in before} == before and set(before.values()) == {None, "duplicate"}
    assert files_with(root, WHO) == []


def test_a_dry_run_tells_what_an_erasure_then_does_and_changes_nothing(shop):
    def state():
        return {path: path.read_bytes() for path in shop.rglob("*") if path.is_file()}

    before = state()
    found = json.loads(gyral(shop, "erase", WHO, "--dry-run", "--json").stdout.splitlines()[-1])
    told = gyral(shop, "erase", WHO, "--dry-run").stdout
    assert state() == before
    assert "events 30, quarantine 1" in told and "shop@1 30" in told and "nothing was changed" in told
    assert set(found["files"]) == {*files_with(shop, WHO), "datasets/shop@1, column `subject`"}
    receipt = json.loads(gyral(shop, "erase", WHO, "--json").stdout.splitlines()[-1])
    for name in ("rows", "datasets", "models", "trained_on", "mentions"):
        assert found[name] == receipt[name], name
    after = json.loads(gyral(shop, "erase", WHO, "--dry-run", "--json").stdout.splitlines()[-1])
    assert after["rows"] == {"events": 0, "quarantine": 0} and after["files"] == after["models"] == []
    assert after["datasets"] == {} and after["trained_on"] == found["trained_on"]  # they have learned it all the same


def test_a_dry_run_where_nothing_is_makes_nothing(tmp_path):
    done = gyral(tmp_path, "erase", WHO, "--dry-run")
    assert done.returncode == 0 and "events 0" in done.stdout and list(tmp_path.iterdir()) == []


def test_erasing_twice_does_nothing_more_and_still_lists_the_models(shop):
    first = json.loads(gyral(shop, "erase", WHO, "--json").stdout.splitlines()[-1])
    second = gyral(shop, "erase", WHO)
    assert second.returncode == 0 and first["trained_on"] and all(each in second.stdout for each in first["trained_on"])
    receipt = json.loads((shop / "runs" / str(first["run"] + 1) / "receipt.json").read_text())
    assert (
        receipt["rows"] == {"events": 0, "quarantine": 0} and receipt["models"] == [] and receipt["subject"] == first["subject"]
    )
    assert len(datasets.find(shop, "shop").manifest.erased) == 1


def test_somebody_nobody_knows_is_marked_all_the_same(tmp_path):
    with Run.start(tmp_path, "erase", Config()) as run:
        receipt = erase(tmp_path, Config(), run, "o'hara")
    assert receipt.rows == {"events": 0, "quarantine": 0} and receipt.found == []
    assert Lake(tmp_path).snapshot("erasures").count() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    ["log.committed", "lake.merged", "lake.committed", "lake.deleted", "erase.events", "erase.datasets", "erase.models"],
)
def test_killed_anywhere_it_is_finished_by_the_next_try(shop, point):
    for count in (1, 2):
        died = verbs.gyral("erase", WHO, "--root", shop, GYRAL_FAULT=f"{point}:{count}")
        assert count == 2 or died.returncode == -9
    done = gyral(shop, "erase", WHO, "--json")
    assert done.returncode == 0, done.stderr
    receipt = json.loads(done.stdout.splitlines()[-1])
    assert (receipt["found"] == [] and files_with(shop, WHO) == [] and receipt["left"] == []) or "server" in receipt["left"][0]
    assert receipt["trained_on"] == ["shop-int8@1", "shop@1"]
    assert Lake(shop).snapshot("events").count() == 1170 and datasets.find(shop, "shop").read().num_rows == 1170
    assert Lake(shop).snapshot("events").facts.rows == 1170


def event(number, subject):
    checked = check_json(
        json.dumps([{"event_id": f"e{number}", "event_time": number, "kind": "k", "subject": subject}]).encode()
    )
    return to_columns(checked.events, NOW_US)


def test_a_drain_that_runs_meanwhile_neither_loses_others_nor_keeps_them(tmp_path):
    """One process appends and drains all the time; what it acknowledged of others is there, of the erased nothing."""
    lake, log = Lake(tmp_path), SqliteLog(Lake(tmp_path).log_folder)
    sent, stopping, errors = [], threading.Event(), []
    drain = Drain(lake, log, 10)

    def work():
        number = 0
        try:
            while not stopping.is_set():
                who = WHO if number % 3 == 0 else f"s{number % 7}"
                log.append("events-a", str(number), encode_payload(event(number, who)), 1)
                sent.append((f"e{number}", who))
                number += 1
                if number % 5 == 0:
                    drain.run()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while len(sent) < 60:
        time.sleep(0.01)
    done = gyral(tmp_path, "erase", WHO, "--json")
    stopping.set()
    thread.join()
    drain.run()
    drain.run()
    log.close()
    assert errors == [] and done.returncode == 0, done.stderr
    receipt = json.loads(done.stdout.splitlines()[-1])
    assert receipt["rows"]["events"] >= 20
    rows = lake.snapshot("events").read(["event_id", "subject"]).to_pylist()
    assert sorted((row["event_id"], row["subject"]) for row in rows) == sorted(each for each in sent if each[1] != WHO)
    assert lake.snapshot("events").facts.rows == len(rows)
    assert [each for each in files_with(tmp_path, WHO) if "log" not in each] == []


def test_it_waits_for_runs_that_read_what_it_takes_away(shop, monkeypatch):
    monkeypatch.setattr("gyral.run.WAIT_S", 0.2)
    with Run.start(shop, "curate", Config()), pytest.raises(ConflictError), Run.start(shop, "erase", Config()) as run:
        erase(shop, Config(), run, WHO)
    with Run.start(shop, "erase", Config()) as run:
        assert erase(shop, Config(), run, WHO).rows["events"] == 30
    with pytest.raises(GyralError):
        Lake(shop).snapshot("events", 1).read()


def test_quarantined_rows_are_theirs_by_any_field(tmp_path):
    lake = Lake(tmp_path)
    raws = [
        json.dumps({"user": WHO}).encode(),
        json.dumps({"n": [{"a": WHO}]}).encode(),
        WHO.encode() + b",x",
        b'{"user": "x"}',
        b"\xff",
    ]
    rows = [{"event_id": str(n), "ingest_time": 1, "reason": "bad", "raw": raw} for n, raw in enumerate(raws)]
    batch = pa.RecordBatch.from_pylist(rows, schema=QUARANTINE)
    with SqliteLog(lake.log_folder) as log:
        log.append("a", "1", encode_payload(None, batch), len(rows))
        Drain(lake, log, 100).run()
    with Run.start(tmp_path, "erase", Config()) as run:
        assert erase(tmp_path, Config(), run, WHO).rows["quarantine"] == 3
    assert lake.snapshot("quarantine").read(["event_id"])["event_id"].to_pylist() == ["3", "4"]
    assert lake.snapshot("quarantine").facts.counts["reason"] == {"bad": 2}
