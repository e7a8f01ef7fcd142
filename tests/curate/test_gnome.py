"""Real pages in 42 languages, with facts counted by other means: the Debian package `gnome-user-docs`."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter

import pytest

from gyral.errors import InputError
from gyral.lake import dataset as datasets
from gyral.lake import documents
from gyral.packages.fetch import fetch
from gyral.packages.unpacking import unpack

pytestmark = pytest.mark.slow
OFF = ["gopher", "c4", "fineweb"]
PAGE = "{http://projectmallard.org/1.0/}"


@pytest.fixture(scope="module")
def folder():
    try:
        package = fetch("apt:gnome-user-docs", print)
    except InputError as error:
        pytest.skip(f"the package cannot be fetched: {error.what}")
    return unpack(package, print)[0] / "usr/share/help"


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("gnome")
    sets = [word for name in OFF for word in ("--set", f"quality.{name}.enabled=false")]
    command = [
        sys.executable,
        "-m",
        "gyral",
        "curate",
        "docs",
        "--root",
        str(root),
        "--source",
        "apt:gnome-user-docs",
        "--json",
    ]
    done = subprocess.run([*command, *sets], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert set(line) == {"dataset", "rows_in", "rows_kept", "dropped"} and line["rows_in"] == 13_131
    return datasets.find(root, "docs")


@pytest.fixture(scope="module")
def raw(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.page")) if not path.is_symlink()
    }


def test_pages_that_say_the_same_are_all_gone(made, raw):
    """907 copies among pages of 200 characters or more, by everything that stands in them."""
    seen: dict[str, list[str]] = {}
    for name, body in raw.items():
        text = " ".join("".join(ElementTree.fromstring(body).itertext()).split())
        if len(text) >= 200:
            seen.setdefault(text, []).append(name)
    copies = sum(len(names) - 1 for names in seen.values())
    assert copies == 907
    kept = set(made.read()["file"].to_pylist())
    assert all(len(kept & set(names)) <= 1 for names in seen.values())
    again = next(names for names in seen.values() if len(names) > 1 and kept & set(names))
    dropped = next(name for name in again if name not in kept)
    answer = documents.why(made, dropped)
    assert answer["reason"] == "duplicate_exact" and answer["twin"] in again and answer["jaccard"] == 1


def repeats(texts):
    """Paragraphs over 60 characters, white space aside, and how many of them came before."""
    counts = Counter()
    for text in texts:
        for piece in re.split(r"\n\s*\n", text):
            plain = " ".join(piece.split())
            if len(plain) > 60:
                counts[plain] += 1
    return counts.total(), counts.total() - len(counts)


def test_nineteen_of_twenty_repeated_paragraphs_are_gone(made, raw):
    before = []
    for body in raw.values():
        root = ElementTree.fromstring(body)
        before.append("\n\n".join("".join(each.itertext()) for each in root.iter(f"{PAGE}p")))
    seen, again = repeats(before)
    assert seen > 50_000 and again > 20_000
    kept = made.read()["text"].to_pylist()
    _, left = repeats(kept)
    assert left <= 0.05 * again


def test_pages_are_told_to_be_in_the_language_they_are_in(made):
    """A third of the longer pages are English in the folder of another language; who is there says so and is found."""
    declared = made.manifest.report["declared"]
    wrong = sum(number for said, row in declared.items() for found, number in row.items() if said != found)
    total = sum(number for row in declared.values() for number in row.values())
    assert 0.25 < wrong / total < 0.45
    near = {"gl": ("es", "pt"), "sr": ("hr",)}  # Galician is near to both, Serbian in Latin letters is told as Croatian
    for said, row in declared.items():
        expected = sum(row.get(each, 0) for each in ("en", said, *near.get(said, ())))
        assert sum(row.values()) < 100 or expected > 0.9 * sum(row.values()), said
    assert declared["de"]["de"] > 200 and declared["ja"]["ja"] > 50 and declared["en"].keys() == {"en"}
