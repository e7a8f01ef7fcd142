"""`--budget` by a project's own law: what is trained is what the law says, for each family, and nothing else is ever chosen."""

import json
import signal
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gyral import config as configs
from gyral.config import budget_seconds, with_values
from gyral.errors import InputError
from gyral.lake import dataset as datasets
from gyral.law import runs
from gyral.law.allocate import REPEATS
from gyral.law.choose import choose as choose_law
from gyral.law.places import runs_of
from gyral.model import card as cards
from gyral.plan import counters
from gyral.run import Run
from gyral.train import budget, scale, shapes, tasks, trainer
from gyral.train.neural import FLOP_PER_UPDATED, STEP_FLOP, planned_steps
from gyral.train.open_lm import shape_of

from .. import verbs

BUDGET_S = 0.5
E, A, B, POWER = 1.0, 20.0, 20.0, 0.3
LM = ("train.family=lm", "train.batch=8", "lm.length=32")
SEQUENCE = ("train.family=recommender", "train.task=sequence", "train.batch=16", "recommend.length=8")
MASKED = ("train.family=vision", "train.task=masked", "train.batch=8", "vision.side=16", "vision.decoder_width=16")
MASKED += ("vision.heads=2", "vision.channels=1")
FAMILIES = {"docs": LM, "walks": SEQUENCE, "drawings": MASKED}


def law(n, d):
    return E + A * np.asarray(n, float) ** -POWER + B * np.asarray(d, float) ** -POWER


def words(sets):
    return [word for each in sets for word in ("--set", each)]


def train(root, dataset, sets, *more, **environment):
    return verbs.result("train", dataset, *words(sets), "--budget", f"{BUDGET_S}s", *more, "--root", root, **environment)


def add_runs(root, dataset, sets, sizes=6, **columns):
    """Rows as trainings add them, that obey a law but for little noise."""
    config = configs.load(root, [*sets])
    kind = f"{config.train.family}/{config.train.task or 'default'}"
    n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(2e3, 1e6, sizes), np.geomspace(2e3, 1e6, sizes)))
    loss = law(n, d) * np.exp(np.random.default_rng(0).normal(0, 0.001, len(n)))
    same = {
        "group": f"{kind} {dataset}@1",
        "family": config.train.family,
        "metric": "loss",
        **scale.trained_as(config),
        **columns,
    }
    if config.train.family == "recommender":
        same["metric"] = "1 - ndcg_at_10"
    rows = [
        {"run": f"r{i}", "N": 2 * each[0], "N_non_embedding": each[0], "D": each[1], "D_unique": each[1],
         "C": 6 * each[0] * each[1], "loss": each[2], **same}
        for i, each in enumerate(zip(n.tolist(), d.tolist(), loss.tolist(), strict=True))
    ]  # fmt: skip
    runs_of(root).parent.mkdir(exist_ok=True)
    runs.append(runs_of(root), rows)


@pytest.fixture(scope="module")
def made(written):
    """The project `written` with a shop of walks and a folder of drawings beside its documents; no run is in its table."""
    root, rng = written, np.random.default_rng(0)
    rows = []
    for subject in range(40):
        at, time = int(rng.integers(30)), float(rng.integers(10 * 86_400))
        for _ in range(int(rng.integers(12, 30))):
            rows.append((f"s{subject}", f"o{at:02d}", 1.3e9 + time))
            at, time = (at + 2) % 30, time + 86_400
    subject, thing, time = zip(*sorted(rows, key=lambda row: row[2]), strict=True)
    times = pa.array([int(each * 1e6) for each in time], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"subject": subject, "object": thing, "time": times}), root / "walks.parquet")
    verbs.result(
        "ingest", "--source", root / "walks.parquet", "--map", "subject=subject,object=object,time=time", "--root", root
    )
    verbs.result("curate", "walks", "--root", root)
    (root / "drawn").mkdir()
    for number in range(40):
        picture = cv2.resize(rng.integers(0, 256, (4, 4), dtype=np.uint8), (32, 32), interpolation=cv2.INTER_LINEAR)
        cv2.imwrite(str(root / "drawn" / f"{number}.png"), picture)
    stages = words(["curate.stages=['pixels', 'digest']", "images.min_side=16", "images.min_blur=0"])
    verbs.result("curate", "drawings", "--source", root / "drawn", *stages, "--root", root)
    return root


@pytest.fixture
def project(made):
    """The same, each time without runs."""
    runs_of(made).unlink(missing_ok=True)
    return made


def choose(root, dataset, sets, budget_s=BUDGET_S, given=None):
    config = configs.load(root, [*sets])
    given = {each.partition("=")[0] for each in sets} if given is None else given
    return budget.choice_of(root, datasets.find(root, dataset), config, budget_s, given)


@pytest.mark.parametrize("dataset", FAMILIES)
def test_what_the_law_says_is_what_is_trained(project, dataset):
    sets = FAMILIES[dataset]
    add_runs(project, dataset, sets)
    done = train(project, dataset, sets)
    told, counted = done["budget"], done["scale"]
    assert (told["N"], told["D"], told["C"], told["steps"]) == (counted["N"], counted["D"], counted["C"], done["steps"])
    assert told["N_non_embedding"] == counted["N_non_embedding"] and told["rows"] == 36
    low, high = told["loss_80"]
    fresh = min(counted["D"], counted["D_unique"])
    worth = fresh * (1 - REPEATS * np.expm1(-(counted["D"] / fresh - 1) / REPEATS))
    assert low <= told["loss"] <= high and told["loss"] == pytest.approx(float(law(told["N_non_embedding"], worth)), rel=0.01)
    ended = done["metrics"].get("loss") or 1 - done["metrics"]["ndcg_at_10"]
    assert told["ended"] == ended  # what was foretold and what came stand side by side
    run = cards.read_card(cards.find(project, done["model"])).run
    for name, value in told["chosen"].items():
        section, _, key = name.partition(".")
        resolved = configs.tomllib.loads((project / "runs" / str(run) / "config.toml").read_text())
        assert resolved[section][key] == value
        assert value != getattr(getattr(configs.Config(), section), key) or len(told["chosen"]) > 1
    note = (project / "runs" / str(run) / "log.txt").read_text()
    assert "by the law of 36 runs" in note and "from what was foretold" in note
    row = runs.load(runs_of(project)).to_pylist()[-1]
    assert row["run"] == done["model"] and row["settings"] == scale.trained_as(configs.load(project, [*sets]))["settings"]


def test_the_choice_is_the_least_loss_that_the_budget_pays(project):
    """Counted by the planner's own formulas, not by the modules that the choice is counted by."""
    add_runs(project, "docs", LM)
    found = choose(project, "docs", LM)
    unique = datasets.find(project, "docs")
    losses = {}
    for width in shapes.WIDTHS:
        depth = max(1, round(width / 64))
        config = with_values(configs.load(project, [*LM]), {"lm.width": width, "lm.depth": depth})
        net = counters.llama(shape_of(config, 257), 32)
        params = counters.params(net)
        steps = planned_steps(counters.flops(net, 8).model, params.total, BUDGET_S, 1)
        if params.blocks >= 2e3 / 4 and steps * 256 >= 2e3 / 4:
            losses[width] = float(law(params.blocks, steps * 256))
    assert unique.manifest.rows_kept and min(losses, key=losses.get) == found.told["chosen"]["lm.width"]
    assert min(losses) < found.told["chosen"]["lm.width"] < max(losses)
    richer = choose(project, "docs", LM, 100 * BUDGET_S).told
    assert richer["N"] > found.told["N"] and richer["D"] > found.told["D"] and richer["loss"] < found.told["loss"]
    least, most = found.told["flat"]["0.005"]
    assert least <= found.told["N_non_embedding"] <= most


def test_what_somebody_gave_stands(project):
    add_runs(project, "docs", LM)
    free = choose(project, "docs", LM).told["chosen"]
    assert set(free) == {"lm.width", "lm.depth"}
    narrow = choose(project, "docs", [*LM, "lm.width=32"])
    assert set(narrow.told["chosen"]) == {"lm.depth"} and narrow.config.lm.width == 32
    usual = choose(project, "docs", [*LM, "lm.depth=4"])  # a value that is the default, but was given
    assert usual.config.lm.depth == 4 and set(usual.told["chosen"]) == {"lm.width"}
    for more in (["lm.width=32", "lm.depth=1"], ["train.steps=3"]):
        assert choose(project, "docs", [*LM, *more]).told == {}
    (project / "gyral.toml").write_text("[lm]\ndepth = 2\n")
    try:
        told = train(project, "docs", LM)["budget"]
    finally:
        (project / "gyral.toml").unlink()
    assert set(told["chosen"]) == {"lm.width"}


def test_equal_runs_choose_equally_and_others_do_not_count(project):
    add_runs(project, "docs", LM)
    first = choose(project, "docs", LM).told
    assert choose(project, "docs", LM).told == first
    add_runs(project, "docs", [*LM, "train.optim.rate=0.1"], loss=9.0)
    add_runs(project, "docs", [*LM, "lm.tied=false"], loss=9.0)
    add_runs(project, "others", LM, loss=9.0)
    add_runs(project, "docs", LM, family="vision", group="vision/masked docs@1", loss=9.0)
    assert choose(project, "docs", LM).told == first
    moved = choose(project, "docs", [*LM, "train.optim.rate=0.1"]).told
    assert "refused" in moved and "next:" in moved["refused"]  # losses that are all alike carry no law


def test_without_a_law_all_is_as_it_was_and_one_line_says_why(project):
    sets = [*LM, "train.batch=2"]
    sizes = ["lm.width=256", "lm.depth=4"]  # what the configuration says where nobody chooses
    given = train(project, "docs", [*sets, *sizes])
    plain = verbs.gyral("train", "docs", *words(sets), "--budget", f"{BUDGET_S}s", "--json", "--root", project)
    told = json.loads(plain.stdout.splitlines()[-1])
    few = "1 runs like this one are in the table"
    assert few in plain.stderr and "gyral law sweep docs --family lm --budget 5m" in plain.stderr
    add_runs(project, "docs", sets, sizes=2)
    third = verbs.gyral("train", "docs", *words(sets), "--budget", f"{BUDGET_S}s", "--json", "--root", project)
    assert "sizes are those of the configuration" in third.stderr
    last = json.loads(third.stdout.splitlines()[-1])
    assert "budget" not in told and "budget" not in last
    weights = [(cards.find(project, each["model"]) / cards.WEIGHTS).read_bytes() for each in (given, told, last)]
    assert weights[0] == weights[1] == weights[2] and given["steps"] == told["steps"] == last["steps"]


def test_a_resumed_run_keeps_what_was_chosen(project):
    add_runs(project, "docs", LM)
    begun = ("train", "docs", *words([*LM, "train.checkpoint_every=5"]), "--budget", f"{BUDGET_S}s", "--root", project)
    done = verbs.gyral(*begun, GYRAL_FAULT="checkpoint.publish:3")
    assert done.returncode == -signal.SIGKILL
    number = max(int(each.name) for each in (project / "runs").iterdir())
    told = json.loads((project / "runs" / str(number) / "budget.json").read_text())
    add_runs(project, "docs", LM, loss=9.0)  # what is chosen now is something else, or nothing
    resumed = verbs.result("train", "--resume", number, "--root", project)
    assert {**resumed["budget"], "ended": None} == {**told, "ended": None}
    assert resumed["scale"]["N"] == told["N"] and resumed["steps"] == told["steps"]
    refused = verbs.gyral("train", "--resume", number, "--set", "lm.width=16", "--root", project)
    assert refused.returncode != 0 and "`lm.width` was" in refused.stderr


def test_who_begins_from_a_chosen_model_has_its_sizes(project):
    add_runs(project, "drawings", MASKED)
    first = train(project, "drawings", MASKED)
    again = train(project, "drawings", [*MASKED, f"train.start={first['model']}"])
    assert again["scale"]["N"] == first["scale"]["N"] and again["budget"]["chosen"] == first["budget"]["chosen"]
    assert again["budget"]["from"] == first["model"] and "loss" not in again["budget"]


def test_ranks_train_what_one_would(project):
    add_runs(project, "docs", LM)
    done = train(project, "docs", LM, "--parallel", "data=2")
    told = done["budget"]
    assert done["ranks"] == 2 and (told["N"], told["steps"]) == (done["scale"]["N"], done["steps"])
    assert told["C"] > choose(project, "docs", LM).told["C"]  # two ranks are paid twice


def test_a_plan_says_what_would_be_chosen(project):
    add_runs(project, "docs", LM)
    plan = train(project, "docs", LM, "--plan")["plan"]
    told = choose(project, "docs", LM).told
    for name, value in told["chosen"].items():
        assert plan[name]["value"] == value and plan[name]["by"] == "calibrated" and "36 runs" in plan[name]["why"]
    assert plan["parameters"]["value"] == told["N"] and plan["steps"]["value"] == told["steps"]
    assert plan["loss"]["low"] <= plan["loss"]["value"] == told["loss"] <= plan["loss"]["high"]
    none = train(project, "drawings", MASKED, "--plan")["plan"]["parameters"]["why"]
    assert "no law chose it" in none and "gyral law sweep drawings --family vision --set train.task=masked" in none


def test_sizes_that_a_mesh_or_heads_do_not_divide_are_not_on_the_ladder(project):
    for sets in (["lm.heads=3"], ["train.parallel=tensor=2"]):
        add_runs(project, "docs", [*LM, *sets])
        told = choose(project, "docs", [*LM, *sets]).told
        width = told["chosen"]["lm.width"]
        assert not width % 6 if "lm.heads" in sets[0] else width >= 128
    assert all(
        not each["vision.width"] % 12
        for each in shapes.ladder(configs.load(Path(), ["train.family=vision", "vision.heads=3"]), ())
    )
    assert shapes.ladder(configs.load(Path(), ["train.task=history"]), ()) == []


def test_a_budget_in_flop_is_spent_on_as_many():
    """What every step costs beside its products is paid from it too."""
    for flops, updated in ((1e9, 0), (3e8, 100_000)):
        steps = planned_steps(flops, updated, budget_seconds("1e12flop"), 1)
        assert steps * flops == pytest.approx(1e12 * flops / (flops + STEP_FLOP + FLOP_PER_UPDATED * updated), rel=0.01)


def test_an_exponent_that_is_not_known_refuses_nothing_where_size_hardly_matters():
    n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(2e3, 1e6, 6), np.geomspace(2e3, 1e6, 6)))
    loss = (1 + 0.3 * n**-0.3 + 20 * d**-0.3) * np.exp(np.random.default_rng(0).normal(0, 0.005, 36))
    found = choose_law(runs.RunTable({"N": n, "D": d, "C": 6 * n * d}, loss, np.arange(36).astype(str)))
    asked = np.geomspace(1e3, 1e6, 12)
    near = {"N": asked, "D": 1e9 / 6 / asked, "C": np.full(12, 1e9)}
    i = int(found.predict(near).argmin())
    budget._refuse(found, near, i, "docs@1", configs.Config())
    with pytest.raises(InputError, match=r"wide: the exponent .* the size that would be chosen may end [\d.]+% above the best"):
        budget._refuse(found, near, 11, "docs@1", configs.Config())  # a size that is far from the best


def test_an_exponent_that_is_not_known_refuses_a_choice_that_costs_something(repository):
    """Of a sweep of gyral's own, its largest budget held out: what would have been chosen ended 4.8 % above the best."""
    whole = runs.read(repository / "data" / "laws" / "gyral_lm_1024.csv", {"N": "N_non_embedding"})
    axis = whole.axis()
    found, held = choose_law(whole.taken(axis < 1.84e12)), (axis >= 1.84e12) & (axis < 2.3e12)
    near = {name: whole.columns[name][held] for name in ("N", "D", "D_unique", "C")}
    i = int(found.predict(near).argmin())
    assert whole.loss[held][i] / whole.loss[held].min() - 1 == pytest.approx(0.0484, abs=1e-4)
    with pytest.raises(InputError, match=r"wide: .* may end 2\.\d% above the best"):
        budget._refuse(found, near, i, "docs@1", configs.Config())


def test_each_turn_of_a_loop_is_sized_by_the_law_and_adds_its_run_to_it(project, tmp_path):
    """What the law foretold and what the turn ended with are in the card of each turn's model; turn 1 is a row for turn 2."""
    add_runs(tmp_path, "walks", SEQUENCE)
    walks, rng = pq.read_table(project / "walks.parquet"), np.random.default_rng(0)
    objects = pa.array(rng.permutation(walks["object"].to_pylist()))  # a net that foretells all has no loss, and makes no row
    pq.write_table(walks.set_column(1, "object", objects), tmp_path / "walks.parquet")
    names = ("--map", "subject=subject,object=object,time=time")
    loop = ("loop", "--source", tmp_path / "walks.parquet", *names, "--turns", "2", "--budget", f"{2 * BUDGET_S}s")
    done = verbs.gyral(*loop, *words(SEQUENCE), "--json", "--root", tmp_path)
    assert done.returncode == 0, done.stderr
    turns = json.loads(done.stdout.splitlines()[-1])["turns"]
    rows = runs.load(runs_of(tmp_path)).to_pylist()[36:]
    assert [row["run"] for row in rows] == [turn["trained"] for turn in turns] and len(turns) == 2, done.stderr
    for number, (turn, row) in enumerate(zip(turns, rows, strict=True)):
        card = cards.read_card(cards.find(tmp_path, turn["trained"]))
        told, counted = card.training["budget"], card.training["scale"]
        assert told["rows"] == 36 + number and told["chosen"]["recommend.width"] != configs.Config().recommend.width
        assert [told[name] for name in ("N", "D", "C")] == [counted[name] for name in ("N", "D", "C")]
        low, high = told["loss_80"]
        assert low <= told["loss"] <= high and told["ended"] == row["loss"] and not low <= row["loss"] <= high
    assert done.stderr.count("outside its 80 % interval") == 2  # these losses are of no law


def test_what_was_opened_to_choose_is_what_is_trained(project, monkeypatch):
    """To read a dataset twice doubled the time of a start; the weights are those of a training that is told the sizes."""
    add_runs(project, "docs", LM)
    opened, plain = [], tasks.open_task
    monkeypatch.setattr(tasks, "open_task", lambda *given: opened.append(given) or plain(*given))

    def trained(sets, given):
        config = configs.load(project, sets)
        with Run.start(project, "train", config) as run:
            card = trainer.train(project, "docs", config, run, budget_s=0.05, given=given)
        return card, cards.read_weights(cards.find(project, card.model)).arrays

    card, chosen = trained([*LM], set())
    assert len(opened) == 1
    values = card.training["budget"]["chosen"]
    _, told = trained([*LM, *(f"{name}={value}" for name, value in values.items())], set(values))
    assert chosen.keys() == told.keys() and all(np.array_equal(chosen[name], told[name]) for name in told)
    twin = configs.load(project, [*LM, "train.distill=docs"])
    assert shapes.opened_for(plain(project, "docs", configs.load(project, [*LM])), twin) is None
