"""The command line as a user meets it: exit codes, four-part errors, JSON last lines, every verb alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from gyral import console, show
from gyral.config import Config
from gyral.errors import OPTIONAL
from gyral.lake.table import Lake
from gyral.run import Run, numbers

from . import verbs

MAPPED = ["--map", "subject=user,object=item,time=at"]
VERBS = ["loop", "ingest", "curate", "train", "compress", "serve", "show", "eval", "doctor", "dash"]


def gyral(*args, cwd=None, env=None):
    command = [sys.executable, "-m", "gyral", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=env)


def forked(*args, cwd=None):
    """The same, without what loading it costs: for what is asked many times."""
    return verbs.gyral(*args, folder=cwd)


def last_json(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_help_names_every_verb_and_every_verb_has_help():
    told = gyral("--help").stdout
    assert all(f"  {verb}" in told for verb in VERBS)
    for verb in VERBS:
        done = gyral(verb, "--help")
        assert done.returncode == 0 and "--root" in done.stdout and "--json" in done.stdout


def test_help_tells_whole_sentences_and_the_verbs_in_the_order_of_the_ring():
    told = forked("--help").stdout
    words = [
        line.split()[0] for line in told.partition("The ring:")[2].splitlines() if line.startswith("  ") and line[2] != " "
    ]
    assert words[:6] == ["ingest", "curate", "train", "compress", "serve", "loop"]
    assert "..." not in told.partition("The ring:")[2]


def test_help_tells_the_defaults_of_the_configuration():
    serve, train, load = (forked(*verb, "--help").stdout for verb in (["serve"], ["train"], ["bench", "serve"]))
    assert f"[default: {Config().serve.port}]" in serve and f"[default: {Config().serve.host}]" in serve
    assert f"[default: {Config().train.budget}]" in train and f"[default: {Config().bench.route}]" in " ".join(load.split())


@pytest.mark.parametrize("group", [[], ["law"], ["bench"]])
def test_a_group_alone_shows_its_commands_and_calls_it_no_error(group):
    done = forked(*group)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("Usage:") and "error" not in done.stderr and "hint" not in done.stderr


def test_one_section_of_the_configuration_is_shown(tmp_path):
    told = last_json(forked("show", "config.train.optim", "--json", cwd=tmp_path))
    assert told["train.optim.name"] == Config().train.optim.name and all(key.startswith("train.optim.") for key in told)
    wrong = forked("show", "config.trian", cwd=tmp_path)
    assert wrong.returncode == 1 and "did you mean `train`?" in wrong.stderr


@pytest.mark.parametrize(
    ("args", "code", "what", "hint"),
    [
        (["lop"], 2, "No such command 'lop'", "--help"),
        (["loop"], 2, "no source is named", "--source FILE"),
        (["loop", "--source", "none.csv"], 1, "there is no file `none.csv`", "have.csv"),
        (["loop", "--source", "have.csv", "--budget", "0"], 2, "`--budget 0`", "3m"),
        (["loop", "--source", "have.csv", "--budget", "0s"], 2, "buys nothing", "--budget 3m"),
        (["loop", "--source", "have.csv", "--family", "recomender"], 2, "unknown family", "did you mean `recommender`?"),
        (["loop", "--source", "have.csv", "--turns", "0"], 2, "`loop.turns = 0`", "turns + 1 slices"),
        (["loop", "--source", "have.csv", "--turns", "9"], 1, "cannot be cut into 10 slices", "--turns 1"),
        (["loop", "--source", "have.csv", "--map", "subject=usr,object=item,time=at"], 1, "`usr`", "did you mean `user`?"),
        (["loop", "--source", "have.csv", "--map", "subject"], 2, "not a list of FIELD=COLUMN", "--map"),
        (["ingest", "--source", "empty.csv"], 1, "is empty", "a header"),
        (["ingest", "--source", "pip:nothing"], 1, "not a package source", "pip:NAME==VERSION"),
        (["curate", "x"], 1, "no table `events`", "gyral ingest"),
        (["train", "x"], 1, "no dataset `x`", "gyral curate x"),
        (["compress", "x"], 1, "no model `x`", "gyral train"),
        (["compress", "x", "--to", "int9"], 2, "unknown compressor `int9`", "int8"),
        (["serve", "x"], 1, "no model `x`", "gyral train"),
        (["eval", "x", "--dataset", "y"], 1, "no model `x`", "gyral train"),
        (["show", "x"], 1, "nothing called `x`", "lake"),
        (["show", "7"], 1, "no run 7", "gyral show"),
        (["curate", "my shop"], 2, "`curate.name = \"my shop\"`", "letters, digits"),
        (["curate", "../evil"], 2, "`curate.name = \"../evil\"`", "letters, digits"),
        (["ingest", "--source", "have.csv", "--on", "local://threads=0", *MAPPED], 2, "needs a number of workers", "threads=4"),
        (["ingest", "--source", "http://x/y.csv"], 1, "`http://x/y.csv` is not a file", "fetch it first"),
        (["curate", "x", "--set", "curate.nmae=1"], 2, "`curate.nmae` is not a setting", "did you mean `name`?"),
        (["ingest", "--on", "cloud"], 2, "unknown engine `cloud`", "local"),
        (["ingest", "have.csv"], 2, "unexpected extra argument (have.csv); a file is named by `--source FILE`", "--help"),
        (["ingest", "--source", "have.csv", "--budget", "3s"], 2, "`--budget` is an option of `gyral loop`, `gyral train`", ""),
        (["ingest", "--source", "."], 1, "`.` is a folder", "gyral curate NAME --source ."),
        (["ingest", "--source", "have.csv", "--listen", "0"], 2, "`--source` and `--listen` cannot be given together", "one"),
        (["ingest", "--source", "euro.csv", *MAPPED], 1, "bad_time 1", "ingest.time_format="),
        (["serve", "x", "--users", "1e6"], 2, "`--users` says nothing without `--plan`", "--plan"),
        (["show", "models/x"], 1, "there is no model `x`", ""),
        (["law", "fit", "none.csv"], 1, "no such table of runs", "check the path"),
        (["bench", "serve"], 1, "no server is named", "`gyral bench serve URL`"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_what_to_do(tmp_path, args, code, what, hint):
    (tmp_path / "have.csv").write_text("user,item,at\nu,i,2020-01-01\nu,j,2020-01-02\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "euro.csv").write_text("user,item,at\nu,i,31/01/2020\n")
    if args[0] == "loop" and "--map" not in args and "--turns" in args and "9" in args:
        args = [*args, *MAPPED]
    done = forked(*args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    error = done.stderr[done.stderr.index("error:") :]
    assert what in error and hint in error
    assert "hint:" in error or not hint


def test_every_verb_runs_alone_one_after_the_other(tmp_path, small_shop, retail):
    told = last_json(gyral("ingest", "--source", small_shop, "--json", cwd=tmp_path))
    assert told["accepted"] == 60_000
    curated = last_json(gyral("curate", "shop", "--json", cwd=tmp_path))
    assert curated["dataset"] == "shop@1" and curated["rows_in"] == 60_000
    assert curated["rows_kept"] + sum(curated["dropped"].values()) == 60_000
    assert last_json(gyral("train", "shop", "--budget", "2s", "--json", cwd=tmp_path))["model"] == "shop@1"
    assert last_json(gyral("compress", "shop", "--json", cwd=tmp_path))["compression"]["to"] == "int8"
    gyral("ingest", "--source", retail, cwd=tmp_path)
    gyral("curate", "shop", cwd=tmp_path)
    assert "popularity" in gyral("eval", "shop-int8", "--dataset", "shop", cwd=tmp_path).stdout
    scored = last_json(gyral("eval", "shop-int8", "--dataset", "shop", "--json", cwd=tmp_path))
    assert scored["ndcg_at_10"]["model"] > scored["ndcg_at_10"]["popularity"]
    lake = last_json(gyral("show", "lake", "--json", cwd=tmp_path))["tables"]["events"]
    assert lake["rows"] == 601_909
    assert last_json(gyral("show", "shop-int8", "--json", cwd=tmp_path))["compression"]["from"] == "shop@1"
    assert last_json(gyral("show", "shop@1", "--json", cwd=tmp_path))["dataset"] == "shop@1"
    assert last_json(gyral("show", "config", "--json", cwd=tmp_path))["train.family"] == "recommender"
    assert "curate" in gyral("show", cwd=tmp_path).stdout and "601,909" in gyral("show", "lake", cwd=tmp_path).stdout
    assert last_json(gyral("show", "1", "--json", cwd=tmp_path))["verb"] == "ingest"
    index = last_json(gyral("dash", "--export", "pages", "--json", cwd=tmp_path))["index"]
    assert (tmp_path / index).exists()
    findings = last_json(gyral("doctor", "--json", cwd=tmp_path))["findings"]
    assert {each["state"] for each in findings} <= {"ok", "note"}
    assert "fsync" in gyral("doctor", cwd=tmp_path).stdout and "other extras" in {each["check"] for each in findings}


def test_a_model_that_is_called_as_its_dataset_is_can_be_shown(shop):
    model, data = "models/shop", "datasets/shop"
    both = forked("show", "shop", "--root", shop.root).stdout
    assert f"gyral show {model}" in both and "rows kept" in both
    assert last_json(forked("show", model, "--json", "--root", shop.root))["family"] == "recommender"
    assert last_json(forked("show", data, "--json", "--root", shop.root))["rows_kept"] > 0


def test_a_mesh_is_looked_at_where_one_process_trains_too(shop, tmp_path):
    asked = forked("train", "shop", "--parallel", "data=2", "--budget", "1s", "--root", shop.root)
    assert asked.returncode == 2 and "fitted in closed form" in asked.stderr and "train.task=sequence" in asked.stderr
    root = shutil.copytree(shop.root, tmp_path / "project")
    (root / "gyral.toml").write_text('[train]\nparallel = "dat=2"\n')
    wrong = forked("train", "shop", "--root", root)
    assert wrong.returncode == 2 and "did you mean `data`?" in wrong.stderr
    (root / "gyral.toml").write_text('[train]\nparallel = "data=2"\n')  # a file is for all verbs and families
    alone = forked("train", "shop", "--budget", "1s", "--root", root)
    assert alone.returncode == 0 and "closed forms are fitted in one process" in alone.stderr


def test_why_of_an_id_that_is_not_there_says_where_ids_are(shop):
    done = forked("show", "shop", "--why", "nothing", "--root", shop.root)
    assert done.returncode == 1 and "gyral show lake --export DIR" in done.stderr


def test_runs_that_are_not_listed_any_more_are_named(shop, monkeypatch):
    last = numbers(shop.root)[-1]
    assert last > 1 and "earlier" not in show.show(shop.root, None, None, Config())[1]
    monkeypatch.setattr(show, "LAST_RUNS", 1)
    assert f"earlier: `gyral show RUN`, from 1 to {last - 1}" in show.show(shop.root, None, None, Config())[1]


def test_a_name_that_nobody_has_is_told_when_it_is_erased(tmp_path):
    (tmp_path / "x.csv").write_text("subject,object,event_time\nsomebody-1,i,2020-01-01\n")
    forked("ingest", "--source", "x.csv", cwd=tmp_path)
    assert "spelt" in forked("erase", "sombody-1", cwd=tmp_path).stdout
    assert "spelt" not in forked("erase", "somebody-1", cwd=tmp_path).stdout


def test_why_tells_rule_and_row(tmp_path):
    (tmp_path / "x.csv").write_text("subject,object,event_time\nu,i,2020-01-01\nu,i,2020-01-01\n")
    forked("ingest", "--source", "x.csv", cwd=tmp_path)
    forked("curate", "x", cwd=tmp_path)
    ids = Lake(tmp_path).snapshot("events").read(["event_id"])["event_id"].to_pylist()
    told = [last_json(forked("show", "x", "--why", each, "--json", cwd=tmp_path)) for each in ids]
    assert [(each["kept"], each["reason"]) for each in told] == [(True, None), (False, "duplicate")]
    assert "dropped: duplicate" in forked("show", "x", "--why", ids[1], cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("words", "resume_as", "line"),
    [
        (["ingest", "--source", "big(1).csv"], None, "gyral ingest --source 'big(1).csv'"),
        (["ingest", "--source", "a'b #.csv"], None, "gyral ingest --source 'a'\"'\"'b #.csv'"),
        (["loop", "--source", "x", "--resume", "1", "--turns", "2"], 8, "gyral loop --source x --turns 2 --resume 8"),
        (["loop", "--resume=1"], 8, "gyral loop --resume 8"),
        (["loop"], None, "gyral loop"),
    ],
)
def test_the_line_that_goes_on_can_be_pasted(monkeypatch, words, resume_as, line):
    monkeypatch.setattr(sys, "argv", ["gyral", *words])
    monkeypatch.setattr(console, "_current", [SimpleNamespace(resume_as=resume_as)])
    assert console.resume_line() == f"everything committed is kept; continue with `{line}`"


def test_a_loop_ends_with_the_line_that_asks_its_model(monkeypatch, tmp_path):
    monkeypatch.setattr("gyral.show.turn_table", lambda result: "a table")
    told = console.turns_and_pages({"model": "shop-int8@3"}, tmp_path, Path("demo"))
    assert told.splitlines()[-1] == "serve: gyral serve shop-int8 --root demo"


def test_doctor_names_the_loop_that_was_killed_and_not_its_child(tmp_path):
    for verb, parent, command in (("loop", None, "gyral loop --source x"), ("train", 1, "")):
        with Run.start(tmp_path, verb, Config(), parent=parent):
            pass
        number = numbers(tmp_path)[-1]
        record = tmp_path / "runs" / str(number) / "lineage.json"
        told = {**json.loads(record.read_text()), "status": "running", "pid": 2**22 - 3, "pid_started": "1", "command": command}
        record.write_text(json.dumps(told))
    found = next(each for each in last_json(forked("doctor", "--json", cwd=tmp_path))["findings"] if each["check"] == "runs")
    assert found["hint"] == "run 1 was killed; continue with `gyral loop --source x --resume 1`"


@pytest.mark.parametrize("file", ["weights.safetensors", "inputs.json", "card.json"])
def test_doctor_finds_a_damaged_model_and_dataset(shop, file):
    found = {each["check"]: each for each in json.loads(forked("doctor", "--json", "--root", shop.root).stdout)["findings"]}
    assert {found[name]["state"] for name in ("lake", "datasets", "models")} == {"ok"}
    (shop.root / "models" / "shop@1" / file).write_bytes(b"{damaged")
    shard = next((shop.root / "datasets/shop@1/shards").iterdir())
    shard.write_bytes(b"damaged")
    done = forked("doctor", "--json", "--root", shop.root)
    assert done.returncode == 1
    found = {each["check"]: each for each in json.loads(done.stdout)["findings"]}
    assert {found[name]["state"] for name in ("datasets", "models")} == {"bad"} and found["models"]["hint"]
    for verb in (["serve", "shop@1"], ["compress", "shop"], ["eval", "shop@1", "--dataset", "shop"]):
        done = forked(*verb, "--root", shop.root)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert "cannot be read" in done.stderr or "is not what was written" in done.stderr


def test_doctor_finds_what_is_broken(tmp_path):
    (tmp_path / "gyral.toml").write_text("[train]\nsed = 1\n")
    done = forked("doctor", cwd=tmp_path)
    assert done.returncode == 1 and "did you mean `seed`?" in done.stdout


@pytest.mark.parametrize("verb", ["ingest", "curate", "train", "compress"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_verb_stopped_in_the_middle_leaves_everything_readable_and_the_rerun_completes(tmp_path, made, small_shop, verb, how):
    shutil.copytree(made.root, tmp_path / "p")
    big = tmp_path / "big.parquet"
    pq.write_table(pq.read_table(small_shop), big, row_group_size=5_000)  # other bytes, so another source
    args = {
        "ingest": ["ingest", "--source", str(big), "--set", "ingest.batch_rows=500"],
        "curate": ["curate", "shop"],
        "train": ["train", "shop", "--budget", "10m"],
        "compress": ["compress", "shop"],
    }[verb]
    before = len(list((tmp_path / "p" / "runs").iterdir()))
    child = subprocess.Popen(
        [sys.executable, "-m", "gyral", *args, "--root", str(tmp_path / "p")], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    run = tmp_path / "p" / "runs" / str(before + 1) / "lineage.json"
    while not run.exists():
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(0.3 if verb in ("ingest", "train") else 0.02)  # in the middle of each
    child.send_signal(how)
    _, told = child.communicate(timeout=60)
    if child.returncode == 0:
        pytest.skip("it was faster than the signal")
    if how == signal.SIGINT:
        assert child.returncode == 130 and "continue with `gyral" in told.decode() and "Traceback" not in told.decode()
    shown = last_json(forked("show", "--json", "--root", tmp_path / "p"))
    # "done": the signal met the process between its last record and its end
    assert shown["runs"][-1]["status"] in (("interrupted" if how == signal.SIGINT else "killed"), "done")
    args = [word.replace("10m", "1s") for word in args]
    last_json(forked(*args, "--json", "--root", tmp_path / "p"))
    lake = last_json(forked("show", "lake", "--json", "--root", tmp_path / "p"))["tables"]["events"]
    assert lake["rows"] == (120_000 if verb == "ingest" else 60_000)


@pytest.mark.parametrize(
    ("module", "args"), [("numba", ["train", "x"]), ("jinja2", ["dash"]), ("httptools", ["dash"]), ("numba", ["serve", "x"])]
)
def test_a_part_that_is_not_installed_is_named_with_the_pip_line(tmp_path, module, args):
    code = f"import sys; sys.modules[{module!r}] = None; sys.argv = ['gyral', *{args!r}]; from gyral.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"`{module}`" in done.stderr and "pip install 'gyral[" in done.stderr


def test_what_the_base_promises_works_without_any_extra(tmp_path):
    """The modules of all extras hidden: read, store, explain."""
    (tmp_path / "x.csv").write_text("subject,object,event_time\nu,i,2020-01-01\n")
    (tmp_path / "models" / "x@1").mkdir(parents=True)
    hidden = "".join(f"sys.modules[{name!r}] = None; " for name in OPTIONAL)
    for args in (
        ["ingest", "--source", "x.csv"],
        ["curate", "x"],
        ["show"],
        ["show", "lake"],
        ["show", "x"],
        ["doctor"],
        ["show", "config"],
    ):
        code = f"import sys; {hidden}sys.argv = ['gyral', *{args!r}]; from gyral.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert done.returncode == 0, (args, done.stderr)
        assert args != ["doctor"] or "not read: `numba` is not installed" in done.stdout


def test_output_can_be_cut_off(tmp_path):
    (tmp_path / "x.csv").write_text("subject,object,event_time\nu,i,2020-01-01\n")
    done = subprocess.run(
        f"{sys.executable} -m gyral show config | head -1", shell=True, capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 0 and "setting" in done.stdout and "Traceback" not in done.stderr


def test_json_lines_on_stderr_when_asked(tmp_path, small_shop):
    env = {key: value for key, value in os.environ.items() if key != "GYRAL_NO_PROGRESS"}
    done = gyral("ingest", "--source", small_shop, "--json", cwd=tmp_path, env=env)
    for line in done.stderr.strip().splitlines():
        json.loads(line)
    assert any("rate" in json.loads(line) for line in done.stderr.strip().splitlines())


@pytest.mark.parametrize(
    "line",
    [
        "curate shop",
        "curate docs --source nowhere",
        'curate docs --source {}/nothing.jsonl --set curate.stages=["extract"]',
        "train shop",
        "compress shop",
        "serve shop",
    ],
)
def test_a_verb_that_finds_nothing_leaves_the_record_of_its_run_and_no_more(tmp_path, line):
    root = tmp_path / "project"
    (tmp_path / "nothing.jsonl").write_text("\n")
    done = forked(*line.format(tmp_path).split(), "--root", root)
    assert done.returncode == 1 and ("there is no" in done.stderr or "has no table" in done.stderr)
    left = {str(path.relative_to(root)) for path in root.rglob("*") if len(path.relative_to(root).parts) <= 2}
    assert left - {".making"} == {"runs", "runs/1"}  # but for a lock
    assert json.loads((root / "runs" / "1" / "lineage.json").read_text())["status"] == "failed"
