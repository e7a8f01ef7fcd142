"""The verb over documents: what is read, decided, kept, shown and computed again."""

import json
import os
import random
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gyral import config as configs
from gyral.curate import documents as verb
from gyral.curate import readers, store
from gyral.curate.verb import curate as run_verb
from gyral.curate.verb import name_of
from gyral.errors import ConfigError, InputError, NotFound
from gyral.lake import dataset as datasets
from gyral.lake import documents
from gyral.run import Run, read_metrics
from gyral.show import show


def curate(root: Path, source: Path | str = "", name: str = "pages", **sets) -> datasets.Dataset:
    given = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in sets.items()]
    config = configs.load(root, [*given, f"curate.source={json.dumps(str(source))}"])
    with Run.start(root, "curate", config) as run:
        return verb.curate(root, name, config, run)


@pytest.fixture(scope="module")
def pages(corpus, tmp_path_factory):
    return corpus.write_lines(tmp_path_factory.mktemp("source") / "pages", corpus.texts(400), 6)


@pytest.fixture(scope="module")
def project(pages, tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    curate(root, pages)
    return root


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().replace(".", " ").split()
    return {tuple(words[at : at + 5]) for at in range(max(len(words) - 4, 1))}


def test_every_document_has_a_decision_that_can_be_told(project, pages):
    made = datasets.find(project, "pages")
    manifest = made.manifest
    assert (manifest.kind, manifest.rows_in) == ("text", 400)
    assert manifest.rows_kept + sum(manifest.dropped.values()) == 400
    assert {"duplicate_exact", "duplicate_near", "gopher_short_doc"} <= set(manifest.dropped)
    lines = {}
    for path in sorted(pages.iterdir()):
        offset = 0
        for line in path.read_bytes().splitlines(keepends=True):
            lines[f"{path.name}@{offset}"] = json.loads(line)["text"]
            offset += len(line)
    told = {name: documents.why(made, name) for name in list(lines)[::7]}
    for name, answer in told.items():
        assert answer["document"] == name and answer["kept"] == (answer["reason"] is None)
        if answer["reason"] == "duplicate_near":
            mine, other = shingles(lines[name]), shingles(lines[answer["twin"]])
            assert answer["jaccard"] == pytest.approx(len(mine & other) / len(mine | other), abs=1e-6)
            assert answer["jaccard"] >= answer["threshold"] == 0.8 and documents.why(made, answer["twin"])["kept"]
        if answer["reason"] == "duplicate_exact":  # or it is a copy of what is near to the one that is kept
            assert (lines[name] == lines[answer["twin"]]) == (answer["jaccard"] == 1) and answer["jaccard"] >= 0.8
        if answer["reason"] == "gopher_short_doc":
            assert answer["value"] <= answer["signals"]["num_words"] and answer["value"] < answer["threshold"] == 50
            assert answer["rule"] == "quality.gopher.min_words"
    assert {"duplicate_near", "duplicate_exact", "gopher_short_doc", None} <= {each["reason"] for each in told.values()}


def test_what_is_kept_is_read_with_its_edits(project, corpus, pages):
    made = datasets.find(project, "pages")
    table = made.read()
    texts = dict(
        zip(zip(table["file"].to_pylist(), table["offset"].to_pylist(), strict=True), table["text"].to_pylist(), strict=True)
    )
    assert len(texts) == made.manifest.rows_kept
    assert sum(corpus.NOTE in text for text in texts.values()) == 1  # it stands on every third page
    for (file, offset), text in list(texts.items())[::9]:
        with open(pages / file, "rb") as lines:
            lines.seek(offset)
            assert (
                json.loads(lines.readline())["text"].replace(corpus.NOTE, "").strip() == text.replace(corpus.NOTE, "").strip()
            )


def test_a_threshold_changes_without_reading_a_text(project, pages, tmp_path):
    root = tmp_path / "again"
    shutil.copytree(project, root)
    shutil.rmtree(root / store.FOLDER)  # neither the signals' first home nor the source is needed
    made = curate(root, quality__gopher__min_words=0, quality__gopher__min_stop_words=0)
    assert made.name == "pages@2" and "gopher_short_doc" not in made.manifest.dropped
    fresh = curate(tmp_path / "fresh", pages, quality__gopher__min_words=0, quality__gopher__min_stop_words=0)
    assert made.manifest.dropped == fresh.manifest.dropped and made.read().equals(fresh.read())
    first = datasets.find(root, "pages@1")
    for old, new in zip(documents.shard_files(first), documents.shard_files(made), strict=True):
        assert os.path.samefile(old.text, new.text) and os.path.samefile(old.signals, new.signals)


def test_what_was_dropped_comes_back(project, tmp_path):
    root = tmp_path / "back"
    shutil.copytree(project, root)
    everything = curate(root, dedup__exact=False, dedup__near=False, dedup__paragraphs=False, quality__gopher__enabled=False,
                        quality__c4__enabled=False, quality__fineweb__enabled=False)  # fmt: skip
    made = datasets.find(root, "pages@1")
    dropped = pa.Table.from_batches(list(documents.batches(made, kept=False)))
    assert dropped.num_rows == 400 - made.manifest.rows_kept
    assert everything.manifest.rows_kept == 400
    assert set(dropped["reason"].to_pylist()) == set(made.manifest.dropped)


def test_more_documents_cost_what_is_new_and_give_what_all_of_them_give(corpus, tmp_path, monkeypatch):
    documents_of = corpus.texts(500, seed=3)
    source = corpus.write_lines(tmp_path / "source", documents_of[:300], 4)
    curate(tmp_path / "grown", source)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "grown" / store.FOLDER).glob("*/part.json")}
    more = [corpus.near_copy(random.Random(1), text) for text in documents_of[:20]] + documents_of[300:]
    lines = "\n".join(json.dumps({"text": text}) for text in more)
    (source / "more.jsonl").write_text(lines + "\n")
    grown = curate(tmp_path / "grown", source)
    fresh = curate(tmp_path / "fresh", source)
    assert corpus.digests(grown.folder) == corpus.digests(fresh.folder)
    assert grown.manifest.dropped == fresh.manifest.dropped and grown.manifest.rows_in == 520
    run = max(int(path.name) for path in (tmp_path / "grown/runs").iterdir())
    near = next(line for line in read_metrics(tmp_path / "grown", run) if line["type"] == "near")
    assert near["known"] > 0 and near["known"] + near["verified"] == near["candidates"]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


def test_rules_and_stages_of_a_project(pages, tmp_path, monkeypatch):
    (tmp_path / "mine_of_the_test.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nimport pyarrow.compute as pc\n"
        "from gyral.curate.stage import Limit, Stage, add, numbers\n"
        "@dataclass(frozen=True)\nclass Dots(Stage):\n    name: ClassVar[str] = 'dots'\n"
        "    def __call__(self, batch):\n        return add(batch, {'dots': pc.count_substring(batch['text'], '.')})\n"
        "    def limits(self, config):\n"
        "        return [Limit('dotty', 'mine.max', ['dots'], lambda c: numbers(c, 'dots'), '>', 12)]\n"
        "def make(config):\n    return Dots()\ndef recipe(config):\n    from gyral.curate.text.digest import Digest\n"
        "    return [Digest(), Dots()]\ndef wrong(config):\n    return 'no stage'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    made = curate(tmp_path, pages, curate__stages=["extract", "digest", "mine_of_the_test:make"])
    assert made.manifest.stages == ["extract", "digest", "dots"] and made.manifest.dropped["dotty"] > 10
    again = curate(tmp_path, pages, name="other", curate__recipe="mine_of_the_test:recipe")
    assert again.manifest.dropped == made.manifest.dropped
    for wrong in ("mine_of_the_test:wrong", "mine_of_the_test:missing", "no_such_module:make"):
        with pytest.raises(ConfigError):
            curate(tmp_path, pages, curate__stages=["extract", wrong])


def test_errors_say_what_to_do(tmp_path, pages, project):
    with pytest.raises(NotFound, match="has no source"):
        curate(tmp_path)
    with pytest.raises(InputError, match="there is no"):
        curate(tmp_path, tmp_path / "nowhere")
    with pytest.raises(InputError) as error:
        curate(tmp_path, pages, quality__gopher__min_words=100_000)
    assert "no document is left" in error.value.what and "gopher_short_doc" in error.value.why
    assert not list((tmp_path / "datasets").glob("[!.]*"))
    with pytest.raises(NotFound, match="made of no document"):
        documents.why(datasets.find(project, "pages"), "nothing.jsonl")
    with pytest.raises(ConfigError, match="is not a recipe"):
        curate(tmp_path, pages, curate__recipe="txt")


def test_a_file_that_changed_on_the_disk_is_told(project, tmp_path):
    root = tmp_path / "damaged"
    shutil.copytree(project, root)
    made = datasets.find(root, "pages")
    path = documents.shard_files(made)[0].text
    body = path.read_bytes()
    path.unlink()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(InputError, match="is not what was written"):
        made.read()


def test_show_tells_it_in_words_and_as_data(project):
    config = configs.load(project)
    data, text = show(project, "pages", None, config)
    assert data["report"]["languages"]["en"]["documents"] > 300 and "dropped duplicate_near" in text
    name = documents.name_of(datasets.find(project, "pages"), 3)
    answer, words = show(project, "pages", name, config)
    assert {"kept", "reason", "rule", "value", "threshold", "twin", "jaccard"} <= set(answer)
    assert words.startswith(name)


def test_samples_show_each_rule_and_clusters(project):
    made = datasets.find(project, "pages")
    samples = json.loads((made.folder / documents.SAMPLES).read_text())
    assert {each["reason"] for each in samples["dropped"]} == set(made.manifest.dropped)
    assert all(each["documents"][0]["text"] for each in samples["dropped"])
    cluster = samples["clusters"][0]
    assert cluster["size"] >= 2 and 0.8 <= cluster["members"][0]["jaccard"] < 1 and len(samples["kept"]) == 6


def test_a_probe_leaves_each_family_out(project, tmp_path, corpus):
    root = tmp_path / "probe"
    shutil.copytree(project, root)
    clean = tmp_path / "clean"
    clean.mkdir()
    for number, text in enumerate(corpus.texts(30, seed=99)):
        (clean / f"{number}.txt").write_text(text)
    made = curate(root, curate__probe=str(clean), curate__probe_bytes=100_000)
    rows = {row["name"]: row for row in made.manifest.report["probe"]}
    assert list(rows)[:2] == ["result", "everything"] and {"without dedup.near", "without quality.gopher"} <= set(rows)
    assert all(0 < row["low"] <= row["bits_per_byte"] <= row["high"] < 8 for row in rows.values())


def test_a_mixture_and_its_tokens(project, tmp_path):
    pytest.importorskip("tokenizers")
    from gyral.lake.tokens import TokenShards

    root = tmp_path / "tokens"
    shutil.copytree(project, root)
    made = curate(root, mix__max_epochs=2, mix__target_bytes=400_000, tokens__write=True, tokens__vocab_size=400)
    report = made.manifest.report
    copies = pq.read_table(made.folder / made.manifest.decisions)["copies"].to_pylist()
    assert max(copies) == 2 and sum(copies) == report["tokens"]["documents"]
    assert report["mix"][0]["drawn_bytes"] == pytest.approx(400_000, rel=0.02)
    shards = TokenShards(made.folder / "tokens", verify=True)
    assert shards.num_tokens == report["tokens"]["tokens"] > 50_000
    again = curate(root, mix__max_epochs=2, mix__target_bytes=400_000, tokens__write=True, tokens__vocab_size=400)
    assert os.path.samefile(made.folder / "tokens/tokenizer.json", again.folder / "tokens/tokenizer.json")


def test_what_means_the_same_goes_by_an_embedding(project, tmp_path, monkeypatch):
    (tmp_path / "vectors_of_the_test.py").write_text(
        "import numpy as np\nCALLS = []\n"
        "def embed(texts):\n    CALLS.append(len(texts))\n"
        "    rows = [[text.count(letter) for letter in 'abcdefghijklmnopqrstuvwxyz'] for text in texts]\n"
        "    return np.array(rows, np.float32) - np.mean(rows, axis=1, keepdims=True)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    root = tmp_path / "semantic"
    shutil.copytree(project, root)
    sets = {"dedup__semantic": "vectors_of_the_test:embed", "dedup__semantic_min_cosine": 0.985}
    made = curate(root, **sets)
    gone = made.manifest.dropped["duplicate_semantic"]
    assert gone > 0
    import vectors_of_the_test

    assert sum(vectors_of_the_test.CALLS) - 1 == made.manifest.rows_kept + gone + made.manifest.dropped.get(
        "duplicate_paragraphs", 0
    )
    vectors_of_the_test.CALLS.clear()
    again = curate(root, **sets, quality__gopher__max_words=90_000)
    assert vectors_of_the_test.CALLS == [1] and again.manifest.dropped == made.manifest.dropped


def test_names_come_from_sources():
    assert [name_of(each) for each in ("apt:gnome-user-docs", "a/b/pages.jsonl.gz", "npm:x-y@1.0!/a", "", "./-/")] == [
        "gnome-user-docs", "pages", "x-y_1", "interactions", "documents",
    ]  # fmt: skip


def test_a_hostile_folder_is_survived_and_counted(tmp_path):
    """Each is refused with a reason, quickly, and the page between them is kept."""
    source = tmp_path / "source"
    source.mkdir()
    good = (
        "<html><body><article>"
        + "".join(
            f"<p>This is paragraph {number} of a page that says something to everybody who reads it.</p>"
            for number in range(12)
        )
        + "</article></body></html>"
    )
    (source / "good.html").write_text(good)
    (source / "nested.html").write_text("<div>" * 2_000_000 + "deep")
    (source / "unclosed.html").write_text("<html><script>" + "var a = 1;" * 200_000)
    (source / "nul.html").write_bytes(b"<p>" + b"\0" * 100_000 + b"</p>")
    (source / "table.html").write_text("<table>" + "<tr><td>1</td></tr>" * 300_000 + "</table>")
    (source / "large.html").write_bytes(b"<p>" + b"x" * (21 << 20))
    (source / "line.txt").write_text("word " * 1_000_000)
    (source / "binary.txt").write_bytes(random.Random(0).randbytes(50_000))
    (source / "empty.txt").write_bytes(b"")
    (source / "laughs.xml").write_text(
        '<?xml version="1.0"?><!DOCTYPE article [<!ENTITY e0 "ha">'
        + "".join(f'<!ENTITY e{number + 1} "{f"&e{number};" * 10}">' for number in range(9))
        + ']><article xmlns="http://docbook.org/ns/docbook"><para>&e9;</para></article>'
    )
    (source / "lines.jsonl").write_text(
        '{"text": "' + "long " * 1_000_000 + '"}\n{"text": broken\n{"no": 1}\n' + json.dumps({"text": good}) + "\n"
    )
    began = time.process_time()
    made = curate(tmp_path, source, quality__gopher__enabled=False, quality__c4__enabled=False, quality__fineweb__enabled=False)
    assert time.process_time() - began < 60
    kept = made.read()["file"].to_pylist()
    assert "good.html" in kept
    assert made.manifest.rows_in == 14
    for name in ("large.html", "laughs.xml", "binary.txt", "empty.txt", "unclosed.html"):
        assert documents.why(made, name)["reason"], name


def test_parts_are_those_of_their_files(tmp_path, pages):
    place = readers.open_place(str(pages), Path(), print)
    key = store.key_of(place.parts[0], "recipe")
    assert (
        key
        == store.key_of(readers.open_place(str(pages), Path(), print).parts[0], "recipe")
        != store.key_of(place.parts[0], "other")
    )


def test_folders_with_files_of_one_name_size_and_time_stay_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(f"The folder {name} says this. " * 12)
        os.utime(tmp_path / name / "x.txt", (1_700_000_000, 1_700_000_000))
    made = curate(tmp_path, f"{tmp_path}/a {tmp_path}/b", curate__stages=["extract", "digest"])
    table = made.read()
    assert table["file"].to_pylist() == ["a/x.txt", "b/x.txt"] and "folder b" in table["text"][1].as_py()
    alone = curate(tmp_path, tmp_path / "a", name="alone", curate__stages=["extract", "digest"])
    assert alone.read()["file"].to_pylist() == ["x.txt"]


def test_how_a_source_is_read_is_remembered(tmp_path):
    source = tmp_path / "source.jsonl"
    source.write_text(json.dumps({"text": "one " * 60, "other": "two " * 900}) + "\n")
    plain = {"curate__stages": ["extract", "digest"]}
    assert curate(tmp_path, source, **plain).read()["text"][0].as_py().startswith("one")
    assert curate(tmp_path, source, **plain, curate__text_field="other").read()["text"][0].as_py().startswith("two")
    assert curate(tmp_path, **plain).read()["text"][0].as_py().startswith("two")
    with pytest.raises(InputError) as error:
        curate(tmp_path, source, **plain, curate__text_field="other", curate__max_document_bytes=1_000)
    assert "too_large" in error.value.why


def test_who_is_named_as_kept_is_kept(project, tmp_path):
    made = datasets.find(project, "pages")
    table = documents.decisions(made)
    reasons, twins = table["reason"].to_pylist(), table["twin"].to_pylist()
    named = [twin for twin in twins if twin is not None]
    assert len(named) > 40 and all(reasons[twin] == "" for twin in named)


def test_tokens_follow_what_is_redacted(tmp_path):
    pytest.importorskip("tokenizers")
    from gyral.lake.tokens import TokenShards
    from gyral.model.tokenizer import Tokenizer

    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("Mail ann@example.org " + "and more words of a letter " * 9)
    (source / "b.txt").write_text("Call +49 30 1234567 " + "and other words of another letter " * 9)
    found = []
    for kind in ("email", "phone"):
        sets = {"curate__stages": ["extract", "digest", "privacy"], "tokens__write": True, "tokens__vocab_size": 300}
        made = curate(tmp_path, source, **sets, privacy__redact=[kind])
        shards = TokenShards(made.folder / "tokens")
        found.append(Tokenizer.load(made.folder / "tokens/tokenizer.json").decode(shards.tokens(0, shards.num_tokens)))
    assert "ann@example.org" not in found[0] and "1234567" in found[0]
    assert "ann@example.org" in found[1] and "1234567" not in found[1]


def test_a_recipe_may_lack_any_stage(pages, tmp_path):
    for number, stages in enumerate((["extract"], ["extract", "minhash", "paragraphs"], ["extract", "statistics"])):
        assert curate(tmp_path, pages, name=f"n{number}", curate__stages=stages).manifest.rows_in == 400


def test_switching_duplicates_off_reads_nothing(project, tmp_path):
    root = tmp_path / "off"
    shutil.copytree(project, root)
    shutil.rmtree(root / store.FOLDER)
    made = curate(root, dedup__near=False, dedup__paragraphs=False)
    assert "duplicate_near" not in made.manifest.dropped and made.manifest.report["edits"].keys() <= {"quality.c4"}


def test_a_file_of_several_documents_is_not_one(project):
    with pytest.raises(NotFound, match="holds several documents"):
        documents.why(datasets.find(project, "pages"), "000.jsonl")


def test_rules_that_cannot_look_say_so(project, tmp_path):
    root = tmp_path / "rules"
    shutil.copytree(project, root)
    for rule in (
        'field = "url"\nop = ">"\nvalue = 3',
        'field = "digest"\nop = "=="\nvalue = "x"',
        'field = "num_bytes"\nop = ">"\nvalue = "abc"',
    ):
        (root / "gyral.toml").write_text(f'[[curate.rules]]\nreason = "mine"\n{rule}\n')
        with pytest.raises(ConfigError):
            curate(root)
    (root / "gyral.toml").write_text('[[curate.rules]]\nreason = "mine"\nfield = "num_bytes"\nop = "!="\nvalue = 0.0\n')
    with pytest.raises(InputError) as error:
        curate(root)
    assert "mine 3" in error.value.why and "duplicate" not in error.value.why


def test_a_damaged_manifest_hides_neither_what_a_dataset_is_nor_its_making_anew(project, pages, tmp_path):
    root = tmp_path / "damaged_manifest"
    shutil.copytree(project, root)
    (root / "datasets/pages@1/manifest.json").write_text("{")
    config = configs.load(root, ['curate.name="pages"'])
    with Run.start(root, "curate", config) as run, pytest.raises(InputError, match="cannot be read"):
        run_verb(root, config, run)
    assert curate(root, pages).name == "pages@2"
