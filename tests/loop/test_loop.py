"""The loop end to end, as a process, on the first 60,000 real purchases."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gyral import config as configs
from gyral.ingest.files import cut, layout_of
from gyral.ingest.sources import open_source
from gyral.keys import Granted, new_key, write_keys
from gyral.lake import dataset as datasets
from gyral.lake.table import Lake
from gyral.model.family import RECOMMENDER
from gyral.model.holdout import hold_out
from gyral.model.inputs import encode
from gyral.run import Run, numbers, read_lineage, read_metrics
from gyral.served import ServedModel
from gyral.train.closed_form import choose


def gyral(*args, **options):
    command = [sys.executable, "-m", "gyral", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)


def run_loop(root, source, *more, turns=2):
    return gyral("loop", "--root", root, "--source", source, "--turns", turns, "--budget", "2s", "--json", *more)


@pytest.fixture(scope="module")
def looped(small_shop, tmp_path_factory):
    """One finished loop: its folder, its source and its last line."""
    root = tmp_path_factory.mktemp("loop") / "project"
    done = run_loop(root, small_shop)
    assert done.returncode == 0, done.stderr
    return root, small_shop, json.loads(done.stdout.strip().splitlines()[-1])


def test_the_last_line_is_the_table_of_turns(looped):
    _, _, result = looped
    assert [row["turn"] for row in result["turns"]] == [1, 2] and result["model"] == "shop-int8@2"
    for row in result["turns"]:
        for metric in ("ndcg_at_10", "recall_at_10", "hit_at_10"):
            assert set(row[metric]) == set(row["known"][metric]) == {"looped", "frozen", "popularity"}
            assert all(0 <= value <= 1 for value in row[metric].values())
        assert row["freshness_s"] > 0 and row["p99_ms"] > 0 and abs(row["events"] - 20_000) < 500
    first, last = result["turns"]
    assert first["ndcg_at_10"]["looped"] == first["ndcg_at_10"]["frozen"]
    assert last["known"]["ndcg_at_10"]["looped"] > last["known"]["ndcg_at_10"]["popularity"]


def test_what_people_did_next_came_through_the_collector(looped):
    """The first slice is the source's past; the second was sent to the server that had answered, but for rows of nobody."""
    root, *_ = looped
    rows = Lake(root).snapshot("events").read(["event_id", "subject", "src_partition", "schema_id"]).to_pylist()
    rows = [row for row in rows if row["schema_id"] != "impression"]
    ways = Counter((row["src_partition"].rpartition("-")[0], row["subject"] is not None) for row in rows)
    assert len({row["event_id"] for row in rows}) == len(rows)
    assert ways["events", True] > 10_000 and ways["events", False] == 0
    assert sum(ways.values()) + sum(Lake(root).snapshot("quarantine").facts.counts.get("reason", {}).values()) >= 39_500


def test_where_keys_are_wanted_the_loop_has_one_and_nobody_else_gets_in(tmp_path, small_shop):
    """Of senders by a setting, of everybody by the project's file."""
    (tmp_path / "gyral.toml").write_text(f'[[collect.keys]]\nname = "app"\nsha256 = "{"0" * 64}"\n')
    write_keys(tmp_path / "keys.toml", [Granted(name="other", sha256="1" * 64)])
    statuses, is_over = {}, threading.Event()

    def knock():
        while len(statuses) < 3 and not is_over.wait(0.05):
            for each in tmp_path.glob("runs/*/lineage.json"):
                url = json.loads(each.read_bytes())["summary"].get("url")
                for path, body in (("/v1/recommend", b"{}"), ("/v1/events", b"[]"), ("/runs.json", None)) if url else ():
                    try:
                        statuses[path] = urllib.request.urlopen(url + path, body, timeout=5).status
                    except urllib.error.HTTPError as error:
                        statuses[path] = error.code
                        error.close()
                    except OSError:  # it has ended, or comes
                        break

    knocking = threading.Thread(target=knock)
    knocking.start()
    done = run_loop(tmp_path, small_shop)
    is_over.set()
    knocking.join()
    assert done.returncode == 0, done.stderr
    assert statuses == {"/v1/recommend": 401, "/v1/events": 401, "/runs.json": 401}
    partitions = Lake(tmp_path).snapshot("events").offsets
    assert any(name.startswith("events-") for name in partitions)


def test_the_server_of_a_loop_wants_the_first_key_as_soon_as_it_is_made(tmp_path, looped):
    shutil.copytree(looped[0] / "models", tmp_path / "models")
    config = configs.load(tmp_path, [], {})
    secret, digest = new_key()

    def status(key=""):
        asked = urllib.request.Request(f"{served.url}/v1/recommend", b'{"subject": "1"}', {"authorization": f"Bearer {key}"})
        try:
            return urllib.request.urlopen(asked, timeout=10).status
        except urllib.error.HTTPError as error:
            return error.code

    with Run.start(tmp_path, "loop", config) as run, ServedModel(tmp_path, config, run) as served:
        served.follow("shop-int8@2", {})
        assert status() == 200
        write_keys(tmp_path / "keys.toml", [Granted(name="app", sha256=digest)])
        until = time.monotonic() + 20
        while status() != 401:
            assert time.monotonic() < until, "the first key is not noticed"
            time.sleep(0.1)
        assert status(secret) == 200
        assert len(served.ask([{"subject": "17850", "k": 2}], "shop-int8@2").objects[0]) == 2, "the loop is kept out"
        served.tell([{"request_id": "none", "verdict": "chosen", "object": "22423"}])


def plain_truth(part):
    """What customers bought in a slice, by the shop's rules in plain Python: subject → (country, objects)."""
    product = re.compile(r"\d{5}[A-Za-z]{0,2}$")
    met, told = {}, set()
    for row in part.events.to_pylist():
        if (same := tuple(row[name] for name in ("subject", "object", "event_time", "session", "country", "props"))) in told:
            continue
        told.add(same)
        props = json.loads(row["props"])
        is_return = row["session"][0] in "Cc" or props.get("Quantity", 1) <= 0
        if row["subject"] and not is_return and props.get("UnitPrice", 1) > 0 and product.match(row["object"]):
            met.setdefault(row["subject"], (row["country"], []))[1].append(row["object"])
    return met


def plain_ndcg(answer, relevant):
    gained = sum(1 / math.log2(place + 2) for place, each in enumerate(answer) if each in relevant)
    return gained / sum(1 / math.log2(place + 2) for place in range(min(10, len(relevant))))


def test_every_number_of_the_table_is_what_the_models_answer(looped):
    """Oracle: the same questions put to the same model folders in this process, curated and scored in plain Python."""
    root, source, result = looped
    config = configs.load(root, [], {"ingest.source": str(source)})
    opened = open_source(str(source), root, print)
    slices = cut(opened, layout_of(opened, config), config, 3)
    truths = [plain_truth(part) for part in slices]
    for turn in (1, 2):
        row = result["turns"][turn - 1]
        looped_model, frozen_model = (RECOMMENDER.load(root / "models" / name) for name in (row["model"], "shop-int8@1"))
        assert row["model"] == f"shop-int8@{turn}"
        seen = set().union(*truths[:turn])
        values = {"looped": {}, "frozen": {}, "popularity": {}}
        for subject, (country, objects) in truths[turn].items():
            since = [each for truth in truths[1:turn] for each in truth.get(subject, ("", []))[1]]
            context = {"country": country}
            answers = {
                "looped": looped_model.recommend(subject, 10, context),
                "frozen": frozen_model.recommend(subject, 10, {**context, "recent": since[-500:]} if since else context),
                "popularity": looped_model.popular(subject, 10, context),
            }
            for name, answer in answers.items():
                shown = [item.object for item in answer.items]
                hits = len(set(shown) & set(objects))
                values[name][subject] = (plain_ndcg(shown, set(objects)), hits / len(set(objects)), hits > 0)
        assert row["num_asked"] == len(truths[turn]) and row["num_known"] == len(seen & set(truths[turn])) > 50
        for number, metric in enumerate(("ndcg_at_10", "recall_at_10", "hit_at_10")):
            for name, of in values.items():
                every, known = list(of.values()), [value for subject, value in of.items() if subject in seen]
                assert row[metric][name] == pytest.approx(sum(each[number] for each in every) / len(every), abs=2e-6)
                assert row["known"][metric][name] == pytest.approx(sum(each[number] for each in known) / len(known), abs=2e-6)
        assert row["ndcg_at_10"]["looped"] != row["ndcg_at_10"]["frozen"] or turn == 1


def test_freshness_runs_from_the_commit_to_the_first_answer_and_the_budget_is_that_of_a_turn(looped):
    root, _, result = looped
    for row in result["turns"]:
        seconds = row["seconds"]
        before = seconds["curate"] + seconds["train"] + seconds["compress"] + seconds["swap"]
        assert before - 0.1 <= row["freshness_s"] <= before + seconds["ask"] + 0.1
    trained = [number for number in numbers(root) if read_lineage(root, number).verb == "train"]
    for number in trained[:2]:
        tried = [line["done"] for line in read_metrics(root, number) if line["type"] == "progress"][-1]
        split = hold_out(encode(datasets.find(root, f"shop@{1 + trained.index(number)}").read())[1], repeats=True, seed=0)
        assert tried == _num_tried(split) < 19


def _num_tried(split):
    planned = []
    choose(split.before, repeats=True, budget_s=1.0, seed=0, split=split, on_progress=lambda *told: planned.append(told))
    return len(planned)


def test_nothing_was_learned_before_it_was_predicted(looped):
    """The dataset of turn t holds only rows of slices 1…t, and the last slice is in no lake at all."""
    root, source, _ = looped
    config = configs.load(root, [], {"ingest.source": str(source)})
    opened = open_source(str(source), root, print)
    slices = cut(opened, layout_of(opened, config), config, 3)
    for turn in (1, 2):
        data = datasets.find(root, f"shop@{turn}")
        assert data.manifest.rows_in == sum(part.events.num_rows for part in slices[:turn])
        assert data.read()["event_time"][-1].as_py() <= slices[turn].events["event_time"][0].as_py()
    stored = set(Lake(root).snapshot("events").read(["event_id"])["event_id"].to_pylist())
    assert stored.isdisjoint(slices[2].events["event_id"].to_pylist())
    assert stored >= set(slices[0].events["event_id"].to_pylist())


def test_each_answer_came_back_as_an_event(looped):
    root, _, result = looped
    shown = Lake(root).snapshot("events").read(["props"], "kind = 'impression'")["props"].to_pylist()
    slots = Counter(json.loads(props)["slot"] for props in shown)
    asked = sum(row["num_asked"] for row in result["turns"])
    assert slots == {"default": asked, "frozen": asked, "popularity": asked}


def test_runs_tell_the_lineage_from_source_to_model(looped):
    root, source, result = looped
    lineages = [read_lineage(root, number) for number in numbers(root)]
    turn = ["ingest", "curate", "train", "compress"]
    assert [each.verb for each in lineages] == ["loop", *turn, "serve", *turn]
    assert all(each.status == "done" and (each.parent == 1 or each.verb == "loop") for each in lineages)
    assert lineages[0].inputs[0].name == str(source)
    turns = [line for line in read_metrics(root, 1) if line["type"] == "turn"]
    assert [line["ndcg_at_10"] for line in turns] == [row["ndcg_at_10"] for row in result["turns"]]
    assert (root / "runs/1/pages/index.html").exists()


def test_a_second_loop_in_the_same_folder_learns_nothing_from_the_future(looped):
    """The lake already holds later slices; the new datasets must not."""
    root, source, first = looped
    done = run_loop(root, source)
    again = json.loads(done.stdout.strip().splitlines()[-1])
    assert [row["ndcg_at_10"] for row in again["turns"]] == [row["ndcg_at_10"] for row in first["turns"]]
    assert [row["known"] for row in again["turns"]] == [row["known"] for row in first["turns"]]


def _wait_for(path, text, child, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not (path.exists() and text in path.read_text()):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_loop_resumes_after_its_last_finished_turn(looped, tmp_path, how):
    _, small_shop, undisturbed = looped
    args = ["loop", "--root", str(tmp_path), "--source", str(small_shop), "--turns", "2", "--budget", "2s"]
    child = subprocess.Popen([sys.executable, "-m", "gyral", *args], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    _wait_for(tmp_path / "runs/1/metrics.jsonl", '"type":"turn"', child)
    child.send_signal(how)
    _, told = child.communicate(timeout=60)
    if how == signal.SIGINT:
        assert child.returncode == 130
        assert "hint:" in told.decode() and "--resume 1" in told.decode() and "Traceback" not in told.decode()
    deadline = time.monotonic() + 20
    while _servers_of(tmp_path):
        assert time.monotonic() < deadline, "the server outlived the loop"
        time.sleep(0.1)
    assert read_lineage(tmp_path, 1).status == ("interrupted" if how == signal.SIGINT else "killed")
    Lake(tmp_path).snapshot("events").count()
    done = gyral(*args, "--resume", "1", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert [row["turn"] for row in result["turns"]] == [1, 2]
    assert [row["ndcg_at_10"] for row in result["turns"]] == [row["ndcg_at_10"] for row in undisturbed["turns"]]
    other = gyral(*args[:-3], "3", "--budget", "2s", "--resume", "1")
    assert other.returncode == 2 and "run 1 differs in turns" in other.stderr


def _servers_of(root):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve" in words and str(root).encode() in words:
            found.append(path.parent.name)
    return found


def test_any_file_with_a_map_goes_through_the_loop(tmp_path):
    """A generic CSV in an empty folder: ratings that never repeat."""
    import numpy as np

    rng = np.random.default_rng(0)
    seen = set()
    lines = ["who,what,when"]
    for row in range(4_000):
        user = int(rng.integers(0, 80))
        item = int(rng.integers(0, 15)) + 15 * (user % 4)
        if (user, item) not in seen:
            seen.add((user, item))
            lines.append(f"u{user},i{item},{1_600_000_000 + 1000 * row}")
    (tmp_path / "ratings.csv").write_text("\n".join([*lines, "u1,i1,never"]))
    done = gyral(
        "loop", "--source", "ratings.csv", "--map", "subject=who,object=what,time=when", "--turns", "2", "--budget", "2s",
        "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    last = result["turns"][-1]["ndcg_at_10"]
    assert last["looped"] > 1.5 * last["popularity"]
    assert datasets.find(tmp_path, "ratings").manifest.repeats is False
    reasons = Lake(tmp_path).overview()["tables"]["quarantine"]["reasons"]
    assert reasons == {}  # the bad row is the last one, and the last slice is only asked about


def test_of_many_who_act_a_sample_is_asked_and_the_table_says_so(small_shop, tmp_path):
    done = run_loop(tmp_path, small_shop, "--set", "loop.max_asked=50", turns=1)
    row = json.loads(done.stdout.strip().splitlines()[-1])["turns"][0]
    assert row["num_asked"] == 50 < row["num_acted"]
    assert "over 50 of " in done.stderr


def test_two_sources_in_one_folder_are_two_loops_and_two_loops_of_one_name_are_refused(small_shop, tmp_path):
    """The second source learns nothing of the first, and its numbers are those of an empty folder."""
    lines = [f"u{row % 40},i{(row * 7 + row % 40) % 30},{1_600_000_000 + 500 * row}" for row in range(3_000)]
    (tmp_path / "films.csv").write_text("\n".join(["who,what,when", *lines]))
    films = ["--map", "subject=who,object=what,time=when"]
    assert run_loop(tmp_path / "both", small_shop, turns=1).returncode == 0
    both = run_loop(tmp_path / "both", tmp_path / "films.csv", *films)
    only = run_loop(tmp_path / "only", tmp_path / "films.csv", *films)
    rows, alone = (json.loads(done.stdout.strip().splitlines()[-1])["turns"] for done in (both, only))
    assert [row["ndcg_at_10"] for row in rows] == [row["ndcg_at_10"] for row in alone]
    assert (
        datasets.find(tmp_path / "both", "films@1").manifest.rows_in
        == datasets.find(tmp_path / "only", "films@1").manifest.rows_in
    )
    args = ["loop", "--root", str(tmp_path / "only"), "--source", str(tmp_path / "films.csv"), *films, "--turns", "6"]
    first = subprocess.Popen([sys.executable, "-m", "gyral", *args], stderr=subprocess.PIPE)
    _wait_for(tmp_path / "only/runs" / str(max(numbers(tmp_path / "only")) + 1) / "metrics.jsonl", '"type":"source"', first)
    time.sleep(0.3)
    second = gyral(*args)
    assert second.returncode == 1 and "another loop makes models of this name here" in second.stderr, second.stderr
    first.communicate(timeout=60)
    assert first.returncode == 0


@pytest.mark.parametrize("live", [[], ["--live"]], ids=["turns", "live"])
def test_a_loop_over_a_topic_is_refused_before_anything_is_lost_in_it(small_shop, tmp_path, live):
    done = run_loop(tmp_path, small_shop, *live, "--set", 'ingest.log="kafka://127.0.0.1:1/events"', turns=1)
    assert done.returncode == 2 and "a loop has its log in the lake's folder" in done.stderr, done.stderr
    assert not list(tmp_path.glob("models/*@*"))


def test_a_resumed_loop_must_be_the_same_loop_on_what_is_still_there(small_shop, tmp_path):
    assert run_loop(tmp_path, small_shop, turns=1).returncode == 0
    for change, word in ((["--set", "curate.duplicates=false"], "curate"), (["--seed", "3"], "train")):
        refused = run_loop(tmp_path, small_shop, "--resume", "1", *change, turns=1)
        assert refused.returncode == 2 and f"run 1 differs in {word}" in refused.stderr
    assert run_loop(tmp_path, small_shop, "--resume", "1", turns=1).returncode == 0
    shutil.rmtree(tmp_path / "models")
    gone = run_loop(tmp_path, small_shop, "--resume", "1", turns=1)
    assert gone.returncode == 1 and "the model `shop-int8@1` of a finished turn is gone" in gone.stderr


def test_a_model_that_may_not_be_compressed_is_served_as_it_is(small_shop, tmp_path):
    done = run_loop(tmp_path, small_shop, "--set", "compress.max_loss=0", "--seed", "1")
    assert done.returncode == 0, done.stderr
    models = [row["model"] for row in json.loads(done.stdout.strip().splitlines()[-1])["turns"]]
    refused = [read_lineage(tmp_path, number) for number in numbers(tmp_path)]
    refused = [each for each in refused if each.verb == "compress" and each.status == "failed"]
    assert len(refused) == sum("int8" not in model for model in models) >= 1
    for each in refused:
        assert "would lose" in each.error["what"] and "the limit is 0.00 %" in each.error["why"]


@pytest.mark.slow
def test_the_bundled_purchases_are_above_the_measured_floor(retail, tmp_path):
    """Seven slices; floors of plain EASE with λ 200: known customers .296 in the first turn, .255 in the last."""
    done = gyral("loop", "--root", tmp_path, "--source", retail, "--turns", 6, "--budget", "3m", "--json")
    assert done.returncode == 0, done.stderr
    turns = json.loads(done.stdout.strip().splitlines()[-1])["turns"]
    known = [row["known"]["ndcg_at_10"] for row in turns]
    assert known[0]["looped"] > 0.296 and known[-1]["looped"] > 0.30 and known[-1]["frozen"] > 0.205
    for row in turns[1:]:
        every = row["ndcg_at_10"]
        assert every["looped"] > every["frozen"] > every["popularity"]


def test_an_empty_slice_of_customers_is_no_crash(tmp_path):
    """Two subjects, three slices: some turn may ask nobody new."""
    rows = [{"subject": f"u{row % 2}", "object": f"i{row % 3}", "event_time": 1_600_000_000 + row} for row in range(9)]
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "tiny.parquet")
    done = run_loop(tmp_path / "p", tmp_path / "tiny.parquet")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.strip().splitlines()[-1])["turns"]) == 2
