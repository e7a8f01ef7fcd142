"""What TensorBoard and MLflow read back is what `metrics.jsonl` has."""

import json

import pytest

from gyral.config import Config
from gyral.errors import NotFound, UsageError
from gyral.progress import Screen
from gyral.run import Run
from gyral.train.export import export, scalars


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("GYRAL_NO_PROGRESS", "1")
    with Run.start(tmp_path, "train", Config(), screen=Screen()) as run:
        for step in range(20):
            run.metric("step", step=step, loss=5 - step / 10, rate=0.001, members=1, skipped=True)
        run.metric("step", step=20, loss=float("nan"))
        run.metric("held_out", step=20, loss=3.5, is_best=True)
    with Run.start(tmp_path, "train", Config(), screen=Screen()):
        pass
    return tmp_path


def losses(root):
    lines = [json.loads(line) for line in (root / "runs/1/metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["type"] == "step" and line.get("loss") is not None]


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_back_every_step(project, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(2):
        assert export(project, 1, f"tensorboard:{tmp_path / 'tb'}") == 20 * 3 + 1
    read = accumulator.EventAccumulator(str(tmp_path / "tb" / "run-1"), size_guidance={"scalars": 0})
    read.Reload()
    found = [(event.step, event.value) for event in read.Scalars("train/loss")]
    assert [step for step, _ in found] == [step for step, _ in losses(project)]
    assert [value for _, value in found] == pytest.approx([value for _, value in losses(project)], rel=1e-6)
    assert [(event.step, event.value) for event in read.Scalars("held_out/loss")] == [(20, 3.5)]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_back_every_step(project, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    export(project, 1, f"mlflow:{tmp_path / 'ml'}")
    client = mlflow.MlflowClient((tmp_path / "ml").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("gyral").experiment_id])
    found = sorted((each.step, each.value) for each in client.get_metric_history(run.info.run_id, "train/loss"))
    assert dict(found) == pytest.approx(dict(losses(project)))


def test_what_is_not_finite_and_what_is_no_number_is_no_scalar():
    lines = [{"type": "step", "step": 1, "time": 2.0, "loss": float("inf"), "norm": 1, "skipped": True, "who": "x"}]
    assert list(scalars([*lines, {"type": "progress", "step": 3}])) == [("train/norm", 1.0, 1, 2.0)]


def test_other_places_and_runs_without_steps_are_refused(project, tmp_path):
    with pytest.raises(UsageError, match="cannot be exported"):
        export(project, 1, str(tmp_path / "x"))
    with pytest.raises(NotFound, match="no steps"):
        export(project, 2, f"tensorboard:{tmp_path}")
