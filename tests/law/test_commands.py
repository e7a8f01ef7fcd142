"""`gyral law` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .. import verbs
from .swept import table

NAMES = "loss=loss_c4_val,C=flops,run=name"


def written(path: Path, head: str, rows: Iterable[Sequence[float]]) -> None:
    path.write_text(head + "\n" + "\n".join(",".join(repr(float(each)) for each in row) for row in rows) + "\n")


@pytest.fixture
def run(tmp_path: Path):
    def run(*words: str, ok: bool = True):
        done = verbs.gyral("law", *words, "--root", str(tmp_path), "--json")
        assert (done.returncode == 0) is ok, done.stderr
        return json.loads(done.stdout.splitlines()[-1]) if ok else done.stderr

    return run


def test_fit_prints_what_papers_ask_for(run, laws: Path) -> None:
    told = run("fit", str(laws / "overtraining_rpj_c4.csv"), "--where", "dataset_name=rpj", "--map", NAMES, "--bootstrap", "50")
    assert set(told) >= {"form", "parameters", "objective", "n", "optima", "identified", "warnings", "runtime_s"}
    for each in told["parameters"].values():
        assert each["ci95"][0] <= each["value"] * 1.2 and isinstance(each["at_bound"], bool)
    alone = run(
        "fit", str(laws / "overtraining_rpj_c4.csv"), "--where", "dataset_name=rpj", "--map", NAMES, "--bootstrap", "0",
        "--form", "chinchilla",
    )  # fmt: skip
    assert list(alone["parameters"]) == ["E", "A", "B", "alpha", "beta"]
    assert alone["parameters"]["E"]["ci95"] is None and alone["n"] == 35


def test_groups_are_fitted_apart(run, laws: Path) -> None:
    told = run("fit", str(laws / "overtraining_rpj_c4.csv"), "--group", "dataset_name", "--map", NAMES, "--bootstrap", "0")
    assert [(each["group"], each["n"]) for each in told["groups"]] == [("rpj", 35), ("c4_original", 34)]


def test_from_runs_to_a_verdict(run, tmp_path: Path) -> None:
    found = table(1)
    path = tmp_path / "runs.csv"
    columns = {"params": found.columns["N"], "D": found.columns["D"], "loss": found.loss}
    written(path, "params,D,loss", zip(*columns.values(), strict=True))
    told = run("import", str(path), "--map", "N=params", "--value", "group=swept")
    assert told["added"] == told["rows"] == len(found)
    fitted = run("fit", "--bootstrap", "100")["groups"]
    assert [each["group"] for each in fitted] == ["swept"]
    kept = json.loads((tmp_path / "laws" / "laws.json").read_text())["groups"][0]
    assert len(kept["runs"]) == len(found) and kept["fan"] and kept["allocations"]
    runs = str(tmp_path / "laws" / "runs.parquet")
    spent = run("allocate", runs, "--budget", "1e21flop", "--form", "chinchilla")
    assert spent["N"] * spent["D"] * 6 == pytest.approx(1e21, rel=1e-3)
    predicted = run("predict", runs, "--target", "N=3e9,D=6e10", "--register", "big")
    truth = 1.8 + 480 * 3e9**-0.35 + 2080 * 6e10**-0.37
    assert abs(np.log(predicted["loss"] / truth)) < 0.01
    judged = run("verdict", "big", "--value", str(truth))
    assert judged["inside"]["0.95"] and judged["score"]["verdicts"] == 1
    assert "is predicted already" in run("predict", runs, "--target", "N=3e9,D=6e10", "--register", "big", ok=False)


def test_few_runs_are_brought_where_there_are_more_already(run, tmp_path: Path) -> None:
    found, path = table(1), tmp_path / "runs.csv"
    rows = [*zip(found.columns["N"], found.columns["D"], found.loss, strict=True)]
    written(path, "N,D,loss", rows[:3])
    assert "too few runs for a law: 3 rows are left" in run("import", str(path), ok=False)
    written(path, "N,D,loss", rows[:4])
    run("import", str(path))
    written(path, "N,D,loss", rows[4:5])
    assert run("import", str(path))["rows"] == 5
    written(path, "N,D,loss", [(1e6, 1e7, float("nan"))])
    assert "`loss` is nan in row 1" in run("import", str(path), ok=False)


def test_a_verdict_finds_the_run_in_the_table(run, tmp_path: Path) -> None:
    found = table(1)
    values = zip(found.columns["N"], found.columns["D"], found.loss, strict=True)
    rows = [{"run": f"r{i}", "N": n, "D": d, "loss": loss} for i, (n, d, loss) in enumerate(values)]
    (tmp_path / "laws").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "laws" / "runs.parquet")
    run("predict", "--target", "N=3e9,D=6e10", "--register", "r7")
    assert run("verdict", "r7")["value"] == pytest.approx(found.loss[7])
    run("predict", "--target", "N=3e9,D=6e10", "--register", "other")
    assert "no run `other`" in run("verdict", "other", ok=False)


def test_what_cannot_be_is_refused_by_name(run, laws: Path, tmp_path: Path) -> None:
    path = str(laws / "overtraining_rpj_c4.csv")
    assert "`huge` is no budget" in run("allocate", path, "--map", NAMES, "--budget", "huge", ok=False)
    assert "is no loss" in run("fit", path, "--map", NAMES, "--loss", "mean", ok=False)
    assert "there is no form `chincilla`" in run("fit", path, "--map", NAMES, "--form", "chincilla", ok=False)
    assert "names nothing" in run("fit", path, "--map", "loss", ok=False)
    assert "is no positive number" in run("predict", path, "--map", NAMES, "--target", "N=-1,D=2", ok=False)
    assert "there are no runs here" in run("fit", ok=False)
    assert "nothing was predicted" in run("verdict", "x", "--value", "2", ok=False)


def test_rates_come_from_sweeps(run, tmp_path: Path) -> None:
    rows = []
    for n in (1e7, 1e8, 1e9):
        for d in (1e9, 1e10):
            best = 1.5 * n**-0.3 * d**-0.05
            rows += [(n, d, lr, 3 + 0.1 * np.log(lr / best) ** 2) for lr in best * np.array([0.25, 0.5, 1, 2, 4])]
    path = tmp_path / "lr.csv"
    written(path, "N,D,lr,loss", rows)
    told = run("rates", str(path), "--target", "N=1e9,D=1e10")
    assert told["best"]["lr"]["value"] == pytest.approx(1.5 * 1e9**-0.3 * 1e10**-0.05, rel=0.02)
