"""Verbs put together: what is trained on may be a place, and curation may ask small models what its rules are worth."""

import json

import pytest

from gyral import config as configs
from gyral import plugins
from gyral.cli import commands
from gyral.errors import InputError, NotFound, UsageError
from gyral.lake import dataset as datasets
from gyral.prepared import dataset_of, is_place
from gyral.run import Run


@pytest.fixture
def gyral(tmp_path, capsys):
    """The command line in this process: words → the last line of stdout as data."""

    def call(*words):
        capsys.readouterr()
        commands.main([*words, "--root", str(tmp_path), "--json"], standalone_mode=False)
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Sentences with a grammar, and two files of junk that a rule drops."""
    folder = tmp_path_factory.mktemp("there") / "pages"
    folder.mkdir()
    whom = ["the falcon", "a gyre", "the tide", "my centre", "a beast", "the desert"]
    what = ["turns around", "is carried by", "comes back to", "cannot hear", "looses", "troubles"]
    for number in range(60):
        lines = [
            f"{whom[(number + at) % 6]} {what[(number * 3 + at * 5) % 6]} {whom[(at * 7) % 6]}, again." for at in range(24)
        ]
        (folder / f"{number}.txt").write_text(f"Page {number}.\n" + "\n".join(lines))
    for number in range(40):
        (folder / f"junk{number}.txt").write_text("\n".join(f"{(number * 7919 + at * 104729) % 99991:x}#" for at in range(200)))
    return folder


def test_a_name_is_a_dataset_and_a_path_is_a_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    assert is_place(tmp_path, "docs") and is_place(tmp_path, "./docs") and is_place(tmp_path, "apt:gnome-user-docs")
    (tmp_path / "datasets" / "docs@1").mkdir(parents=True)
    assert not is_place(tmp_path, "docs") and not is_place(tmp_path, "docs@1") and is_place(tmp_path, "./docs")
    assert not is_place(tmp_path, "other") and not is_place(tmp_path, "wrong:thing")


SMALL = ["lm.depth=1", "lm.width=32", "lm.heads=1", "lm.length=32", "train.batch=8", "train.steps=3"]
SETS = [word for size in SMALL for word in ("--set", size)]
STAGES = ["--set", "curate.stages=['extract', 'repair', 'digest']"]
"""No kernels to compile, and no rules but these of ours."""
NO_JUNK = ["--set", "curate.rules=[{reason = 'junk', field = 'file', op = 'matches', value = 'junk'}]"]


@pytest.mark.slow
def test_a_folder_is_curated_and_trained_on(pages, tmp_path, gyral):
    told = gyral("train", str(pages), "--family", "lm", *SETS, *STAGES)
    assert told["model"] == "pages@1" and len(told["loss"]) == 3
    assert (tmp_path / "datasets" / "pages@1" / "manifest.json").exists()
    runs = [json.loads((tmp_path / "runs" / name / "lineage.json").read_text()) for name in ("1", "2")]
    assert [run["verb"] for run in runs] == ["curate", "train"]
    taught = gyral("train", "pages", "--family", "lm", *SETS, "--distill", "pages@1")
    assert taught["model"] == "pages@2" and 0 <= abs(taught["loss"][0] - told["loss"][0] / 2) < 0.5  # half is the teacher's
    with pytest.raises(NotFound, match="no model"):
        gyral("train", "pages", "--family", "lm", *SETS, "--distill", "nobody")
    two = gyral("train", str(pages), "--family", "lm", *SETS, *STAGES, "--parallel", "data=2")
    assert two["ranks"] == 2 and max(abs(a - b) for a, b in zip(two["loss"], told["loss"], strict=True)) <= 2e-6


@pytest.mark.parametrize("of_events", [True, False])
def test_a_family_of_ones_own_says_whether_it_learns_from_events(tmp_path, monkeypatch, of_events):
    begun = []

    class Family:
        pass

    if of_events:
        Family.of_events = True
    monkeypatch.setattr(plugins, "_registered", {("family", "mine"): Family()})
    (tmp_path / "shop.csv").write_text(
        "subject,object,event_time\n" + "".join(f"c{n},o{n % 3},{1_600_000_000 + n}\n" for n in range(30))
    )

    def start(verb, of):
        begun.append(verb)
        return Run.start(tmp_path, verb, of)

    config = configs.load(tmp_path, [], {"train.family": "mine"})
    if of_events:
        assert dataset_of(tmp_path, str(tmp_path / "shop.csv"), config, start) == "shop@1"
        assert begun == ["ingest", "curate"] and datasets.find(tmp_path, "shop").manifest.rows_kept == 30
    else:  # a table of documents, of which these are none
        with pytest.raises(InputError):
            dataset_of(tmp_path, str(tmp_path / "shop.csv"), config, start)
        assert begun == ["curate"]


@pytest.mark.slow
def test_events_of_a_file_are_ingested_curated_and_trained_on(small_shop, tmp_path, gyral):
    told = gyral("train", str(small_shop), "--budget", "1s")
    assert told["model"] == "shop@1" and any(each["chosen"] for each in told["candidates"])
    runs = [json.loads((tmp_path / "runs" / name / "lineage.json").read_text()) for name in ("1", "2", "3")]
    assert [run["verb"] for run in runs] == ["ingest", "curate", "train"]


@pytest.mark.slow
def test_an_ablation_tells_what_rules_are_worth(pages, tmp_path, gyral):
    """Junk in a third of the files: models that read it foretell the clean pages worse."""
    sets = [
        "ablate.steps=60",
        "ablate.seeds=1",
        "ablate.depth=1",
        "ablate.width=32",
        "ablate.batch=16",
        "curate.probe_bytes=40000",
    ]
    words = [word for each in sets for word in ("--set", each)]
    clean = tmp_path / "clean"
    clean.mkdir()
    for number in range(4):
        lines = [f"a beast looses the desert and my centre cannot hear the {each}" for each in ("tide", "gyre", "falcon")]
        (clean / f"{number}.txt").write_text(f"{number}: " + " again.\n".join(lines))
    done = gyral(
        "curate",
        "pages",
        "--source",
        str(pages),
        "--ablate",
        "--set",
        f"curate.probe={clean}",
        *words,
        *STAGES,
        *NO_JUNK,
    )
    rows = done["ablation"]
    named = {row["name"]: row for row in rows}
    assert rows[0]["name"] == "result" and "everything" in named and "without curate.rules" in named
    assert len({row["bytes"] for row in rows}) == 1
    assert all(row["low"] <= row["bits_per_byte"] <= row["high"] for row in rows)
    assert named["everything"]["change"] > 0.05 and named["without curate.rules"]["change"] > 0.05  # junk harms
    assert named["everything"]["change_low"] > 0
    with pytest.raises(UsageError, match="needs documents"):
        gyral("curate", "nothing", "--ablate")


def test_of_little_text_most_is_trained_on(pages, gyral):
    """All of it is less than `ablate.held_out_bytes`."""
    small = [
        "ablate.steps=1",
        "ablate.seeds=1",
        "ablate.depth=1",
        "ablate.width=32",
        "ablate.batch=2",
        "curate.stages=['extract']",
    ]
    words = [word for each in small for word in ("--set", each)]
    rows = gyral("curate", "pages", "--source", str(pages), "--ablate", *words)["ablation"]
    assert rows[0]["bytes"] > 0.6 * sum(path.stat().st_size for path in pages.iterdir() if "junk" not in path.name)
