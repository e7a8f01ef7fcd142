"""The recommender's tasks end to end, alone and by two ranks, from a dataset to an answer."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gyral.config import Config, Curate
from gyral.config.sections import Feature
from gyral.curate.interactions import curate
from gyral.event.codec import encode_payload
from gyral.event.wire import check_json, to_columns
from gyral.ingest.drain import Drain
from gyral.lake import dataset as datasets
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
from gyral.model import card as cards
from gyral.model.family import RECOMMENDER
from gyral.run import Run

from ..verbs import gyral, result

DAY_S = 86_400
NUM_SUBJECTS, NUM_OBJECTS = 40, 30


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Everybody walks around a ring of objects, two steps at a time: only the order tells what is next."""
    root = tmp_path_factory.mktemp("project")
    rng = np.random.default_rng(0)
    rows = []
    for subject in range(NUM_SUBJECTS):
        at, time = int(rng.integers(NUM_OBJECTS)), float(rng.integers(10 * DAY_S))
        for _ in range(int(rng.integers(12, 30))):
            rows.append((f"s{subject}", f"o{at:02d}", 1.3e9 + time, ("NL", "FI")[subject % 2], f"object number {at}"))
            at, time = (at + 2) % NUM_OBJECTS, time + DAY_S
    rows.sort(key=lambda row: row[2])
    names = ("subject", "object", "event_time", "country", "title")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    columns["event_time"] = pa.array([int(time * 1e6) for time in columns["event_time"]], pa.timestamp("us", "UTC"))
    path = root / "walks.parquet"
    pq.write_table(pa.table(columns), path)
    mapping = "subject=subject,object=object,time=event_time,country=country"
    result("ingest", "--source", path, "--map", mapping, "--root", root)
    result("curate", "walks", "--root", root)
    return root


def sets(*values):
    return [word for value in values for word in ("--set", value)]


def trained(root, task, parallel, *values):
    sizes = ["recommend.width=16", "recommend.length=8", "train.batch=16", "train.steps=12", "recommend.drawn=2"]
    words = sets(f"train.task={task}", *sizes, *values)
    return result("train", "walks", "--family", "recommender", *words, "--parallel", parallel, "--root", root)


@pytest.mark.parametrize(
    ("task", "values"),
    [
        pytest.param("sequence", (), marks=pytest.mark.slow),
        pytest.param("sequence", ("recommend.net=sasrec", "recommend.negatives=7"), marks=pytest.mark.slow),
        ("two_tower", ()),
        pytest.param("history", ("train.optim.rate=0.02",), marks=pytest.mark.slow),
        pytest.param("ranking", (), marks=pytest.mark.slow),
        pytest.param("ranking", ("recommend.interaction=dlrm",), marks=pytest.mark.slow),
    ],
    ids=["hstu", "sasrec_sampled", "two_tower", "history", "dcn", "dlrm"],
)
def test_two_ranks_learn_what_one_learns(project, task, values):
    one, two = trained(project, task, "", *values), trained(project, task, "data=2", *values)
    assert one["ranks"] == 1 and two["ranks"] == 2 and len(one["loss"]) == 12
    assert one["loss"][-1] < one["loss"][0]
    assert max(abs(a - b) for a, b in zip(one["loss"], two["loss"], strict=True)) <= 2e-6
    assert one["metrics"] == pytest.approx(two["metrics"], abs=0.02)
    model = RECOMMENDER.load(cards.find(project, "walks"))
    answer = model.recommend("s0", 5, {})
    assert answer.known and len(answer.items) == 5
    assert len(model.recommend("nobody", 5, {}).items) == 5


@pytest.mark.slow
def test_the_order_is_learned(project):
    trained(project, "sequence", "", "train.steps=150", "train.optim.rate=0.01", "recommend.dropout=0.1")
    model = RECOMMENDER.load(cards.find(project, "walks"))
    for at in range(0, NUM_OBJECTS, 5):
        met = [f"o{(at + 2 * step) % NUM_OBJECTS:02d}" for step in range(4)]
        assert model.recommend("nobody", 1, {"recent": met}).items[0].object == f"o{(at + 8) % NUM_OBJECTS:02d}"


@pytest.fixture(scope="module")
def moody(tmp_path_factory):
    """Who is calm buys even objects, who is wild odd ones; a mood is told before each purchase, and is a coin's toss."""
    root, rng = tmp_path_factory.mktemp("moods"), np.random.default_rng(1)
    events = []
    for number in range(2_000):
        subject, is_wild = f"s{rng.integers(NUM_SUBJECTS)}", bool(rng.integers(2))
        happened = 1_300_000_000_000 + 20_000 * number
        mood = {"kind": "mood", "event_time": happened, "props": {"mood": "wild" if is_wild else "calm"}}
        bought = {"kind": "buy", "event_time": happened + 1, "object": f"o{2 * rng.integers(NUM_OBJECTS // 2) + is_wild:02d}"}
        events += [{"event_id": f"e{number}-{part}", "subject": subject, **each} for part, each in enumerate((mood, bought))]
    lake = Lake(root)
    with SqliteLog(lake.log_folder) as log:
        for start in range(0, len(events), 1_000):  # imported later: all of them came in at once
            batch = to_columns(check_json(json.dumps(events[start : start + 1_000]).encode()).events, 1_400_000_000_000_000)
            log.append("events-a", str(start), encode_payload(batch), batch.num_rows)
        Drain(lake, log, 10_000).run()
    mood = Feature(kind="mood", take={"mood": "props.mood"}, known="ingest_time")
    config = Config(curate=Curate(features=[mood], repeats=True))
    with Run.start(root, "curate", config) as curating:
        curate(root, "walks", config, curating)
    return root


def test_a_feature_that_says_it_all_is_learned_and_served(moody):
    values = ("train.steps=250", "train.batch=64", "train.optim.rate=0.02", "recommend.dropout=0")
    blind = trained(moody, "ranking", "", *values, "train.steps=60", "recommend.words=0")
    told = trained(moody, "ranking", "", *values, "train.optim.tables=rowwise_adagrad", "train.optim.table_rate=0.1")
    assert blind["metrics"]["auc"] < 0.56, "without it an object is as likely as any"
    assert told["metrics"]["auc"] > 0.72, "half the objects drawn have the right parity too: .75 is the most"
    model = RECOMMENDER.load(cards.find(moody, "walks"))
    rows = datasets.find(moody, "walks").read()
    last = dict(zip(rows["subject"].to_pylist(), rows["mood"].to_pylist(), strict=True))
    right = [
        int(item.object[1:]) % 2 == (last[who] == "wild")
        for who in list(last)[:20]
        for item in model.recommend(who, 10, {}).items
    ]
    assert np.mean(right) > 0.95
    assert not RECOMMENDER.erase(cards.find(moody, "walks"), "nobody")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "values", "of_teacher"),
    [
        ("sequence", ("recommend.net=sasrec",), ("recommend.net=hstu",)),
        ("sequence", ("recommend.negatives=7",), ()),
        ("two_tower", (), ()),
        ("ranking", ("recommend.table_width=8",), ("recommend.interaction=dlrm",)),
    ],
    ids=["sequence", "sampled", "two_tower", "ranking"],
)
def test_two_ranks_learn_from_a_teacher_what_one_learns(project, task, values, of_teacher):
    teacher = trained(project, task, "", *of_teacher, "recommend.width=32")["model"]
    taught = (*values, f"train.distill={teacher}")
    one, two = trained(project, task, "", *taught), trained(project, task, "data=2", *taught)
    assert two["ranks"] == 2 and len(one["loss"]) == 12 and one["loss"] != trained(project, task, "", *values)["loss"]
    assert max(abs(a - b) for a, b in zip(one["loss"], two["loss"], strict=True)) <= 2e-6
    model = RECOMMENDER.load(cards.find(project, one["model"]))
    assert model.model.shape.width < 32 and len(model.recommend("s0", 5, {}).items) == 5


BESIDE = (
    "train.server.dense=allreduce",
    "train.optim.tables=rowwise_adagrad",
    "train.optim.clip=0.5",
    "train.optim.schedule=constant",
)


@pytest.mark.slow
def test_tables_on_a_server_and_the_rest_by_all_reduce_learn_what_one_process_learns(project):
    """Two towers compare rows of all workers, which a server alone does not have; norms are of both parts together."""
    one = trained(project, "two_tower", "", *BESIDE[1:])
    sizes = ["recommend.width=16", "recommend.length=8", "train.batch=16", "train.steps=12", "train.checkpoint_every=4"]
    words = ["train", "walks", "--family", "recommender", *sets("train.task=two_tower", *sizes, *BESIDE)]
    words += ["--sync", "bsp", "--parallel", "data=2", "--set", "train.server.at=proc://2", "--root", project]
    two = result(*words)
    assert two["ranks"] == 2 and two["server"]["sync"] == "bsp" and two["server"]["rows_pushed"] > 0
    assert max(abs(a - b) for a, b in zip(one["loss"], two["loss"], strict=True)) <= 2e-6
    assert one["metrics"] == pytest.approx(two["metrics"], abs=0.02)
    assert gyral(*words, GYRAL_FAULT="checkpoint.publish:2").returncode != 0
    run = max(int(each.name) for each in (project / "runs").iterdir() if each.name.isdigit())
    again = result("train", "--resume", run, "--root", project)
    assert again["loss"] == pytest.approx(two["loss"], abs=2e-6)


def test_an_all_reduce_beside_a_server_that_waits_for_nobody_is_refused(project):
    words = sets("train.task=two_tower", *BESIDE)
    done = gyral(
        "train", "walks", "--family", "recommender", *words, "--sync", "async", "--parallel", "data=2", "--root", project
    )
    assert done.returncode != 0 and "an all-reduce waits for everybody" in done.stderr
