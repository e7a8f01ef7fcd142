"""`--plan`: numbers of what would be done, and nothing done."""

import hashlib
import json
import math
from pathlib import Path

import pytest

from gyral.law import runs
from gyral.law.places import runs_of
from gyral.plan import probe
from gyral.plan.kinds import INGEST, TRAIN

from . import verbs

BY = {"measured", "counted", "calibrated", "sheet", "assumed"}
LM = ("--family", "lm", "--set", "lm.depth=1", "--set", "lm.width=16", "--set", "lm.heads=1", "--set", "lm.length=32")
LM += ("--set", "train.steps=3", "--set", "train.batch=2", "--set", 'curate.stages=["extract", "digest"]')


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A shop with a closed form, and pages with a small language model."""
    folder = tmp_path_factory.mktemp("planned")
    root = ("--root", str(folder))
    (folder / "pages").mkdir()
    for n in range(40):
        (folder / "pages" / f"p{n}.txt").write_text(f"What is {n} times {n + 2}? {n} times {n + 2} is {n * (n + 2)}. " * 4)
    lines = ["subject,object,time"]
    lines += [f"s{n % 30},o{(n * n) % 17},2024-01-{1 + n // 40:02}T00:00:{n % 60:02}Z" for n in range(1_000)]
    (folder / "shop.csv").write_text("\n".join(lines))
    verbs.result("ingest", "--source", str(folder / "shop.csv"), "--map", "subject=subject,object=object,time=time", *root)
    verbs.result("curate", "shop", *root)
    verbs.result("train", "shop", "--budget", "3s", *root)
    verbs.result("train", str(folder / "pages"), *LM, *root)
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def plan(project, *words):
    before = files(project)
    told = verbs.result(*words, "--plan", "--root", str(project))
    assert files(project) == before  # nothing was done
    for name, each in told["plan"].items():
        assert each["low"] <= each["value"] <= each["high"] and each["by"] in BY and each["why"], name
    return told


def test_a_training_is_counted_as_it_is_then_trained(project):
    told = plan(project, "train", "pages", *LM)["plan"]
    row = runs.load(runs_of(project)).to_pylist()[0]
    for name, column in {
        "parameters": "N",
        "without embeddings": "N_non_embedding",
        "tokens seen": "D",
        "compute": "C",
    }.items():
        assert told[name]["value"] == row[column] and told[name]["by"] == "counted"
    assert told["steps"]["value"] == 3
    assert told["training"]["by"] == "assumed" and "gyral doctor --probe" in told["training"]["why"]
    assert told["training"]["value"] == pytest.approx(3 * told["step"]["value"])


def test_a_probe_takes_the_place_of_what_was_assumed(project):
    num = math.prod(map(len, probe.SIDES))
    seconds = {}
    for rate in (1e10, 4e10):
        rates = {"f32": [rate] * num, "bf16": [rate] * num}
        few = [(1e3, 1e-9), (1e9, 1e-3)]
        scores = {kind: [(1.0, 4 / rate), (64.0, 4 * 64 / rate)] for kind in rates}
        found = probe.Probe(
            at="now", load=0.0, sides=probe.SIDES, products=rates, attention=scores, exp_s=1e-15, copy=few,
            new=[(1e3, 0.0), (1e9, 0.0)], sums=few, disk_write=1e9, disk_read=1e9,
        )  # fmt: skip
        path = probe.save(project, found)
        told = plan(project, "train", "pages", *LM)["plan"]
        path.unlink()
        assert told["step"]["by"] == told["training"]["by"] == "measured"
        seconds[rate] = told["step"]["value"]
        assert seconds[rate] == pytest.approx(told["compute"]["value"] / told["steps"]["value"] / rate, rel=0.1)
    assert seconds[1e10] == pytest.approx(4 * seconds[4e10], rel=0.05)


def test_a_population_takes_more_servers_the_more_it_asks(project):
    small = plan(project, "serve", "shop", "--users", "1e6", "--per-user", "20")
    large = plan(project, "serve", "shop", "--users", "1e9", "--per-user", "20")
    for name in ("requests", "workers", "cores", "cost"):
        assert large["plan"][name]["value"] > 50 * small["plan"][name]["value"]
    assert large["plan"]["requests"]["value"] == 2e10 and large["plan"]["requests"]["by"] == "counted"
    assert large["plan"]["an answer"]["by"] == "assumed" and "gyral bench serve" in large["plan"]["an answer"]["why"]
    assert sum(each["value"] for each in large["bill"]["parts"].values()) == pytest.approx(large["bill"]["total"]["value"])
    widths = [abs(each["usd_at_high"] - each["usd_at_low"]) for each in large["bill"]["swings"]]
    assert len(widths) == 5 and widths == sorted(widths, reverse=True)


def test_a_closed_form_is_planned_as_it_was_trained(project):
    told = plan(project, "train", "shop", "--budget", "3s")["plan"]
    lineage = json.loads((project / "runs" / "3" / "lineage.json").read_text())
    assert told["rows"]["value"] == lineage["summary"]["rows"] == 1_000
    assert told["paid"]["value"] == lineage["summary"]["nominal_s"] > 0
    assert told["processor"]["by"] == "calibrated" and "run 3" in told["processor"]["why"]
    sheet = TRAIN.lines["processor"].at(told["paid"]["value"])
    ends = sorted([lineage["cpu_s"], sheet])
    assert ends[0] < told["processor"]["value"] < ends[1]  # the run moves what the sheet says
    assert told["candidates"]["value"] >= len(
        json.loads((project / "models" / "shop@1" / "card.json").read_text())["candidates"]
    )
    less = plan(project, "train", "shop", "--budget", "1s")["plan"]
    assert less["candidates"]["value"] <= told["candidates"]["value"]


def test_what_is_not_said_is_assumed(project):
    told = plan(project, "serve", "shop", "--users", "1e6")["plan"]["requests"]
    assert told["by"] == "assumed" and told["low"] < 2e7 < told["high"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "nothing", *LM), "nothing"),
        (("serve", "nothing"), "nothing"),
        (("serve", "shop", "--p99-ms", "1"), "holds a p99 of 1 ms"),
        (("ingest",), "nothing to plan"),
        (("ingest", "--source", "pip:x==1!/a.csv"), "fetched before it can be counted"),
        (("ingest", "--source", "none.csv"), "no file"),
        (("ingest", "--follow"), "`--follow` has no plan"),
        (("curate", "--source", "none"), "none"),
        (("compress", "nothing"), "nothing"),
        (("loop",), "no source is named"),
    ],
)
def test_what_cannot_be_planned_is_said(project, words, says):
    done = verbs.gyral(*words, "--plan", "--root", str(project))
    assert done.returncode in (1, 2) and says in done.stderr


def test_a_person_reads_a_line_a_number(project):
    done = verbs.gyral("serve", "shop", "--plan", "--users", "1e6", "--per-user", "20", "--root", str(project))
    assert done.returncode == 0
    assert all(any(f"{by}:" in line for line in done.stdout.splitlines()) for by in ("assumed", "counted"))
    assert "moved most by" in done.stdout


def digest(folder: Path) -> dict[str, str]:
    """Every file of a project and its bytes; a folder that is made counts, too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(
    "words",
    [
        ("ingest", "--source", "{}/shop.csv", "--map", "subject=subject,object=object,time=time"),
        ("ingest", "--users", "1e9"),
        ("curate", "shop"),
        ("curate", "--source", "{}/pages"),
        ("compress", "shop"),
        ("compress", "shop", "--tiers", "phone,server"),
        ("loop", "--source", "{}/shop.csv", "--turns", "2", "--users", "1e6"),
        ("loop", "--source", "{}/pages", "--family", "lm", "--turns", "2"),
    ],
    ids=" ".join,
)
def test_nothing_is_done(project, words):
    before = digest(project)
    told = plan(project, *(word.format(project) for word in words))["plan"]
    assert digest(project) == before and len(told) >= 5


def test_an_empty_folder_stays_empty(project, tmp_path):
    for words in (("ingest", "--source", str(project / "shop.csv")), ("loop", "--source", str(project / "shop.csv"))):
        told = verbs.result(*words, "--plan", "--root", str(tmp_path))["plan"]
        assert told["time"]["by"] == "sheet" and told["events"]["value"] == 1_000 and told["events"]["by"] == "counted"
    assert list(tmp_path.iterdir()) == []


def test_a_run_calibrates_the_next_plan(project):
    source = ("ingest", "--source", str(project / "shop.csv"), "--map", "subject=subject,object=object,time=time")
    told = plan(project, *source)["plan"]
    assert told["lake"]["by"] == told["time"]["by"] == told["memory"]["by"] == "calibrated" and "run 1" in told["time"]["why"]
    lineage = json.loads((project / "runs/1/lineage.json").read_text())
    for name, field in {"time": "elapsed_s", "memory": "peak_bytes"}.items():
        assert lineage[field] > 0 and told[name]["value"] == pytest.approx(lineage[field], rel=0.01)
    took, sheet = lineage["cpu_s"], INGEST.lines["processor"].at(1_000)  # between the two: a run is as sure as it was quiet
    assert min(took, sheet) < told["processor"]["value"] < max(took, sheet)


def test_curate_keeps_what_it_kept_before(project):
    manifest = json.loads((project / "datasets/shop@1/manifest.json").read_text())
    told = plan(project, "curate", "shop")["plan"]
    assert told["read"]["value"] == 1_000 and told["kept"]["value"] == pytest.approx(manifest["rows_kept"])
    size = sum(path.stat().st_size for path in (project / "datasets/shop@1").rglob("*") if path.is_file())
    assert told["disk"]["value"] == pytest.approx(size) and told["disk"]["by"] == "calibrated"
    assert plan(project, "curate", "pages")["plan"]["read"]["why"].startswith("of pages@1")


def test_bytes_of_a_variant_are_those_that_are_then_made(project):
    told = plan(project, "compress", "pages", "--to", "int8")["plan"]
    made = verbs.result("compress", "pages", "--to", "int8", "--max-loss", "1", "--root", str(project))
    assert told["int8"]["by"] == "counted" and told["int8"]["value"] == made["compression"]["bytes_after"]
    assert told["as it is"]["value"] == made["compression"]["bytes_before"]
    again = plan(project, "compress", "pages", "--to", "int8")["plan"]
    assert again["int8 loses"]["value"] == made["compression"]["relative_loss"] and again["int8 loses"]["by"] == "calibrated"


def test_more_turns_cost_more_and_a_budget_bounds_training(project):
    source = ("loop", "--source", str(project / "shop.csv"))
    two, six = (plan(project, *source, "--turns", turns)["plan"] for turns in ("2", "6"))
    assert six["time"]["value"] > 2 * two["time"]["value"] and six["cost"]["unit"] == "usd"
    short = plan(project, *source, "--turns", "2", "--budget", "1s")["plan"]
    assert short["train"]["value"] == pytest.approx(1.0) and short["train"]["value"] < two["train"]["value"]
    assert short["freshness"]["value"] < two["freshness"]["value"]
