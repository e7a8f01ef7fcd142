"""A threshold on stored signals: a million documents are decided anew without reading their texts.

Documents are made of words of `gnome-user-docs` (Debian, 42 languages): three to twelve sentences of one language, drawn with
a seed; one in ten is a copy of an earlier one, one in ten a copy with a word changed. `gyral curate` computes their signals
once. Then the same command with another threshold decides anew: exact and near-duplicates, repeated paragraphs, languages,
samples and the whole new version of the dataset included. Timed as whole processes; what a version costs on the disk is that
of its own files, as texts and signals are the same files under another name. A tenth of the documents tells how the cost
grows.
Caveats: one machine, in the page cache; the bytes of text that are read are those of about sixty samples.
Command: .venv/bin/python benchmarks/curate/redecide.py (about ten minutes)
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import GYRAL, timed, write

from gyral.config import Config
from gyral.curate import pipeline, readers
from gyral.curate.recipe import stages_of
from gyral.lake import dataset as datasets

SIZES = tuple(map(int, sys.argv[1:])) or (100_000, 1_000_000)
ROUNDS = 3
FILES = 40


def sentences() -> dict[str, list[str]]:
    """Sentences by the language they are declared in."""
    place = readers.open_place("apt:gnome-user-docs", Path(), print)
    first = [stage for stage in stages_of("text", Config()) if stage.name in ("extract", "repair")]
    found: dict[str, set[str]] = {}
    for part in place.parts:
        for batch in readers.read(part):
            made = pipeline.through(batch, first)
            for text, language in zip(made["text"].to_pylist(), made["declared"].to_pylist(), strict=True):
                pieces = re.split(r"(?<=[.!?。])\s+", " ".join((text or "").split()))
                found.setdefault(language or "", set()).update(piece for piece in pieces if 20 < len(piece) < 400)
    return {language: sorted(pieces) for language, pieces in sorted(found.items()) if len(pieces) > 200}


def sentence(chance: random.Random, pieces: list[str]) -> str:
    """Two or three stretches of up to seven words, so that documents of one language share few of their shingles."""
    words: list[str] = []
    for _ in range(chance.randint(2, 3)):
        piece = chance.choice(pieces).split(" ")
        begin = chance.randrange(len(piece))
        words += piece[begin : begin + 7]
    return " ".join(words).rstrip(".!?,;:") + "."


def make(folder: Path, count: int, pool: dict[str, list[str]]) -> int:
    """Write documents as JSON lines; returns their bytes."""
    chance = random.Random(count)
    languages = list(pool)
    recent: list[str] = []
    folder.mkdir()
    size = 0
    files = [open(folder / f"{number:03d}.jsonl", "w") for number in range(FILES)]  # noqa: SIM115
    for number in range(count):
        kind = number % 10
        if kind in (3, 7) and recent:
            text = chance.choice(recent)
            if kind == 7:
                words = text.split(" ")
                words[chance.randrange(len(words))] = str(number)
                text = " ".join(words)
        else:
            pieces = pool[chance.choice(languages)]
            text = "\n".join(sentence(chance, pieces) for _ in range(chance.randint(3, 12)))
            recent = [*recent[-5_000:], text] if number % 3 == 0 else recent
        line = json.dumps({"id": number, "text": text}, ensure_ascii=False) + "\n"
        files[number % FILES].write(line)
        size += len(line.encode())
    for file in files:
        file.close()
    return size


def main() -> None:
    pool = sentences()
    results = {}
    for count in SIZES:
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            size = make(root / "source", count, pool)
            first = timed([*GYRAL, "curate", "big", "--root", str(root), "--source", str(root / "source"), "--json"])
            rounds = []
            for number in range(ROUNDS):
                sets = ["--set", f"quality.gopher.min_words={20 + 10 * number}"]
                rounds.append(timed([*GYRAL, "curate", "big", "--root", str(root), "--json", *sets]))
            made = datasets.find(root, "big")
            own = [path.stat().st_size for path in made.folder.iterdir() if path.is_file()]
            results[count] = {
                "source_bytes": size,
                "first": {name: first[name] for name in ("wall_s", "cpu_s", "peak_bytes")},
                "again": [{name: each[name] for name in ("wall_s", "cpu_s", "peak_bytes")} for each in rounds],
                "kept": [json.loads(each["stdout"].splitlines()[-1])["rows_kept"] for each in (first, *rounds)],
                "shared_bytes": made.manifest.size_bytes,
                "own_bytes": sum(own),
            }
            print(count, results[count], file=sys.stderr)
    write("curate_redecide", {"documents": results})


if __name__ == "__main__":
    main()
