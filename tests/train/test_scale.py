"""The row that a training adds to the project's table of runs."""

from pathlib import Path

import pytest

from gyral.law import runs
from gyral.law.places import runs_of

from .. import verbs

TINY = ("train.steps=3", "train.batch=2", "lm.depth=1", "lm.width=16", "lm.heads=1", "lm.length=32")
WORDS = [word for each in (*TINY, 'curate.stages=["extract", "digest"]') for word in ("--set", each)]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scale")
    (folder / "pages").mkdir()
    for n in range(40):
        (folder / "pages" / f"p{n}.txt").write_text(f"What is {n} times {n + 2}? {n} times {n + 2} is {n * (n + 2)}. " * 4)
    verbs.result("train", str(folder / "pages"), "--family", "lm", *WORDS, "--root", str(folder))
    return folder


def test_a_training_adds_what_it_was(project):
    told = verbs.result("train", "pages", "--family", "lm", *WORDS, "--set", "train.steps=6", "--root", str(project))
    rows = runs.load(runs_of(project)).to_pylist()
    assert [row["run"] for row in rows] == ["pages@1", "pages@2"]
    first, second = rows
    assert first["N"] - first["N_non_embedding"] == 257 * 16  # bytes and the end of a page, tied
    assert (first["D"], second["D"]) == (3 * 2 * 32, 6 * 2 * 32) and second["C"] == 2 * first["C"]
    assert second["loss"] == told["metrics"]["loss"] and second["metric"] == "loss" and second["unit"] == "tokens"
    assert second["family"] == "lm" and second["schedule"] == "finished" and second["seed"] == 0


def test_a_table_that_is_damaged_costs_no_model(project):
    path = runs_of(project)
    kept = path.read_bytes()
    path.write_bytes(b"PAR1 no")
    told = verbs.gyral("train", "pages", "--family", "lm", *WORDS, "--root", str(project))
    assert told.returncode == 0 and "not in the table of runs" in told.stderr
    assert path.read_bytes() == b"PAR1 no"
    path.write_bytes(kept)
