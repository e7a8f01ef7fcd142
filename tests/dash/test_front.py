"""Quality against size and latency, over all models of a dataset: the picture, its numbers, and what nobody timed."""

import json
import re

import pytest

from gyral.dash.pages import app

NAME = "online_retail@6"
MODELS = {  # quality, bytes, ms of one answer
    "online_retail@6": (0.200, 40_000_000, 4.0),
    "online_retail-int8@6": (0.199, 10_000_000, 1.5),
    "small@1": (0.150, 5_000_000, None),
    "worse@1": (0.150, 41_000_000, 1.55),
    "slow@1": (0.100, 50_000_000, 9.0),
}
BY_SIZE = {"online_retail@6", "online_retail-int8@6", "small@1"}
BY_LATENCY = {"online_retail@6", "online_retail-int8@6"}


@pytest.fixture
def models(project):
    """Five models of one dataset, four of them timed when their variants were tried."""
    folder = project / "models"
    card = json.loads((folder / NAME / "card.json").read_text())
    for name, (quality, size, _) in MODELS.items():
        one = [{"name": "ease", "chosen": True, "ndcg_at_10": quality}]
        made = card | {"model": name, "candidates": one, "size_bytes": size, "variants": []}
        if name == NAME:
            times = {name: ms for name, (_, _, ms) in MODELS.items() if ms is not None}
            made["variants"] = [
                {"to": "" if name == NAME else "x", "model": name, "p50_ms": {"1": ms}} for name, ms in times.items()
            ]
        if name == "online_retail-int8@6":  # a published variant has the rows of its origin
            made["created"] = "2027-01-01T00:00:00Z"
            made["compression"] = {
                "to": "x", "from": NAME, "metric_before": 0.2, "metric_after": quality, "relative_loss": 0.005,
                "max_loss": 0.01, "bytes_before": 40_000_000, "bytes_after": size,
            }  # fmt: skip
            made["variants"] = [{"to": "", "p50_ms": {"1": 4.0}}, {"to": "x", "model": name, "p50_ms": {"1": 1.5}}]
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "card.json").write_text(json.dumps(made))
    return project


@pytest.mark.parametrize("page", ["models", f"datasets/{NAME}"])
def test_the_picture_has_every_model_and_its_twin_says_who_is_on_the_front(models, overview, ask, parse, page):
    dash = app(models, overview)
    data, text = ask(dash, f"/{page}.json").json(), ask(dash, f"/{page}").text
    front = data["fronts"][0]
    told = {row["model"]: row for row in front["models"]}
    assert (front["dataset"], front["metric"], front["num_timed"]) == (NAME, "ndcg_at_10", 4)
    assert {name: (row["quality"], row["size_bytes"], row["latency_ms"]) for name, row in told.items()} == MODELS
    assert {name for name, row in told.items() if row["is_front_of_size"]} == BY_SIZE
    assert {name for name, row in told.items() if row["is_front_of_latency"]} == BY_LATENCY
    assert [row["quality"] for row in front["models"]] == sorted((row["quality"] for row in front["models"]), reverse=True)
    for of, on_front in (("size_bytes", BY_SIZE), ("latency_ms", BY_LATENCY)):
        mark = rf'<circle class="dot fill-(\w+)"[^>]*data-series="{of}" data-name="(\S+)" data-x="(\S+)" data-y="(\S+)"'
        marks = re.findall(mark, text)
        assert {(name, float(x), float(y)) for _, name, x, y in marks} == {
            (name, row[of], row["quality"]) for name, row in told.items() if row[of] is not None
        }
        assert {name for role, name, _, _ in marks if role == "looped"} == on_front
    lines = re.findall(r'<polyline[^>]*points="([^"]*)"', text)
    assert [len(line.split()) for line in lines] == [3, 2], "the line goes through what is on the front"
    up = "../" * page.count("/")
    hrefs = [href for href in parse(text).hrefs if href == f"{up}models/small@1"]
    assert len(hrefs) >= 2 and "Latency was measured of 4 of them" in text and "not measured" in text


def test_where_nothing_was_timed_it_says_so_and_draws_sizes_alone(project, overview, ask):
    for run in range(1, 26):
        path = project / f"runs/{run}/lineage.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"summary": {}}))
    page = ask(app(project, overview), "/models").text
    assert "Latency was measured of none" in page and "Quality and size" in page and "Quality and latency" not in page
    told = ask(app(project, overview), "/models.json").json()["fronts"][0]
    assert told["latency"] is None and {row["is_front_of_latency"] for row in told["models"]} == {False}


def test_the_latency_that_most_were_measured_by_is_drawn_and_less_may_be_better(models, overview, ask):
    for name in ("small@1", "slow@1"):
        path = models / f"models/{name}/card.json"
        card = json.loads(path.read_text())
        scores = [{"name": "x", "chosen": True, "loss": 3.0 if name == "slow@1" else 2.0}]
        path.write_text(json.dumps(card | {"metric": "loss", "candidates": scores, "dataset": "pages@1"}))
    told = ask(app(models, overview), f"/datasets/{NAME}.json").json()["fronts"]
    assert [row["model"] for row in told[0]["models"]] == ["online_retail@6", "online_retail-int8@6", "worse@1"]
    assert told[0]["latency"].startswith("CPU time")
    data = ask(app(models, overview), "/models.json").json()
    (loss,) = (each for each in data["fronts"] if each["metric"] == "loss")
    assert [row["model"] for row in loss["models"]] == ["small@1", "slow@1"] and loss["is_smaller_better"]
    assert [row["is_front_of_size"] for row in loss["models"]] == [True, False] and loss["dataset_page"] is None
    assert "online_retail@5" in [each["dataset"] for each in data["other_fronts"]]
    earlier = ask(app(models, overview), "/datasets/online_retail@5.json").json()["fronts"][0]
    assert earlier["latency"].startswith("p99 over HTTP") and earlier["num_timed"] == 1
    assert {row["model"]: row["latency_ms"] for row in earlier["models"]}["online_retail-int8@5"] == pytest.approx(4.45)
