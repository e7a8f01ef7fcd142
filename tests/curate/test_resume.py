"""Whatever is killed, however many work, in whatever order files lie: the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gyral.lake import dataset as datasets

SMALL = """
import sys
from gyral.curate import readers
readers.PART_BYTES = 1 << 17
from gyral.curate import pipeline
pipeline.SHARD_BYTES = 1 << 16
readers.BATCH_BYTES = 1 << 15
sys.argv = ["gyral", *sys.argv[1:]]
from gyral.__main__ import main
main()
"""
"""The command line with parts and shards so small that a test has many of them."""


def start(root: Path, source: Path, on: str) -> subprocess.Popen:
    words = ["curate", "pages", "--root", str(root), "--source", str(source), "--on", on, "--json"]
    return subprocess.Popen(
        [sys.executable, "-c", SMALL, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )


def run(corpus, root: Path, source: Path, on: str = "local://threads=1") -> dict[str, str]:
    process = start(root, source, on)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return corpus.digests(root / "datasets/pages@1")


@pytest.fixture(scope="module")
def source(corpus, tmp_path_factory):
    return corpus.write_lines(tmp_path_factory.mktemp("source") / "pages", corpus.texts(2_500), 12)


@pytest.fixture(scope="module")
def expected(corpus, source, tmp_path_factory):
    root = tmp_path_factory.mktemp("clean")
    found = run(corpus, root, source)
    assert len([name for name in found if name.startswith("shards/")]) > 20
    return found


@pytest.mark.slow
@pytest.mark.parametrize("on", ["local://threads=8", "local://processes=2"])
def test_the_number_of_workers_changes_no_byte(corpus, source, expected, tmp_path, on):
    # processes know nothing of the small shards, so those have the bytes of one worker of the same kind
    if on == "local://processes=2":
        assert run(corpus, tmp_path / "two", source, on) == run(corpus, tmp_path / "one", source, "local://processes=1")
    else:
        assert run(corpus, tmp_path, source, on) == expected


@pytest.mark.slow
def test_the_order_of_files_on_the_disk_changes_no_byte(corpus, source, expected, tmp_path):
    shuffled = tmp_path / "again"
    shuffled.mkdir()
    for path in sorted(source.iterdir(), reverse=True):
        (shuffled / path.name).write_bytes(path.read_bytes())
    assert run(corpus, tmp_path / "root", shuffled) == expected


@pytest.mark.slow
def test_documents_in_another_order_are_kept_all_the_same(corpus, tmp_path):
    """Which of two is kept is decided by what they say, never by where they stand."""
    kept = []
    for seed in (0, 1):
        documents = corpus.texts(600)
        random.Random(seed).shuffle(documents)
        folder = corpus.write_lines(tmp_path / f"source{seed}", documents, 3)
        root = tmp_path / f"root{seed}"
        root.mkdir()
        (root / "gyral.toml").write_text("[dedup]\nparagraphs = false\n")
        run(corpus, root, folder)
        kept.append(sorted(datasets.find(root, "pages").read()["text"].to_pylist()))
    assert kept[0] == kept[1] and 300 < len(kept[0]) < 550


@pytest.mark.slow
def test_a_killed_run_redoes_nothing_that_was_whole(corpus, source, expected, tmp_path):
    """Killed after every shard or two, and then while it decides and publishes, twenty times in all."""
    chance = random.Random(7)
    store, total = tmp_path / "datasets/.signals", sum(name.endswith("signals.parquet") for name in expected)

    def whole() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in store.glob("*/*.signals.parquet")}

    kills, seen = 0, {}
    while kills < 20:
        process = start(tmp_path, source, "local://threads=1")
        wanted = min(len(seen) + chance.randint(1, 2), total) if kills < 16 else total
        while process.poll() is None and len(whole()) < wanted:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.02 if kills < 16 else 0.9))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
        assert seen.items() <= whole().items()
        seen = whole()
    assert kills >= 16 and len(seen) == total
    found = sorted((tmp_path / "datasets").glob("pages@*"))  # a run that was killed behind its last step has published
    assert run(corpus, tmp_path, source) == expected if not found else corpus.digests(found[0]) == expected
    assert seen.items() <= whole().items()
