"""The leaderboard, its raw output, and the numbers that the README takes from it."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
LEADERBOARD = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def raw(name):
    return json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())


def load(name):
    """A module of `benchmarks/`, which is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_raw_file_is_named_and_every_name_is_a_file():
    named = set(re.findall(r"\]\(results/([\w.-]+)\)", LEADERBOARD))
    assert named == {path.name for path in (BENCHMARKS / "results").iterdir()}


def test_every_command_is_a_script_that_is_there():
    scripts = set(re.findall(r"benchmarks/[\w/]+\.py", LEADERBOARD))
    assert len(scripts) > 80
    assert {each for each in scripts if not (ROOT / each).exists()} == set()


def test_the_list_knows_every_raw_file_its_command_and_its_date():
    claims = load("claims")
    found = claims.claims(LEADERBOARD)
    assert {name for each in found for name in each.raw} == {path.name for path in (BENCHMARKS / "results").iterdir()}
    commit = next(each for each in found if each.script == "benchmarks/lake/commit.py")
    assert commit.rows == 2 and commit.raw == ["lake_commit.json"]
    assert claims.command(commit.script) == ".venv/bin/python benchmarks/lake/commit.py (about two minutes)"
    assert "deltalake==1.6.6" in claims.peers(commit.script)
    assert claims.measured("lake_commit.json").startswith(f"lake_commit.json: {raw('lake_commit')['machine']['date']}, Intel")


def test_the_headline_is_the_raw_files():
    closed = raw("loop_close")
    assert f"**{closed['closed_s']:.1f} s** ({closed['first_run_closed_s']:.1f} s with an empty kernel cache)" in README
    assert f"| {closed['closed_s']:.2f} s, median of 2 |" in LEADERBOARD
    assert LEADERBOARD.index("## Time to close the loop") < LEADERBOARD.index("## Claims")


@pytest.mark.parametrize("turn", range(6))
def test_the_table_of_turns_is_the_raw_files(turn):
    row = next(line for line in README.splitlines() if line.startswith(f"| {turn + 1} | ")).replace("*", "")
    scores = raw("loop_close")["turns"][turn]["ndcg_at_10"]
    told = [cell.strip() for cell in row.strip("|").split("|")]
    assert told[1:4] == [f"{scores[name]:.3f}".removeprefix("0") for name in ("looped", "frozen", "popularity")]
    assert told[5] == f"{raw('loop_close')['freshness_s'][turn]:.1f} s"


def test_no_path_of_plain_python_runs_more_bytecodes_than_it_did():
    done = subprocess.run([sys.executable, BENCHMARKS / "gate.py", "--counts"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("gate: ok") == len(load("gate_paths").COUNTED), done.stdout + done.stderr


@pytest.mark.alone
def test_no_kernel_takes_more_of_the_reference_than_it_did():
    done = subprocess.run([sys.executable, BENCHMARKS / "gate.py", "--steady"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0 and done.stdout.count("gate: ok") == len(load("gate_paths").TIMED) - 2, (
        done.stdout + done.stderr
    )


def test_the_gate_knows_each_path():
    paths, kept = load("gate_paths"), json.loads((BENCHMARKS / "gate.json").read_text())
    assert kept["ratios"] and kept["bytecodes"]
    for ratios in kept["ratios"].values():
        assert ratios.keys() == paths.TIMED.keys()
        assert all(each["ratio"] <= each["seen"][1] < each["limit"] for each in ratios.values())
    for counts in kept["bytecodes"].values():
        assert counts.keys() == paths.COUNTED.keys()
