"""Folders of documents that look like something: sentences of common words, copies, near copies, a note on many pages."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

WORDS = re.findall(
    r"\w+",
    """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you
were all her she there would their we him been has when who will no more if out so up said what its about than into them
can only other time new some could these two may first then do any like my now over such our man me even most made after
also did many off before must well back through years where much your way down should because long each just state those
people too mr how little good world make very year still see own work men day get here old life both between being under
three never know same last another while us might great go come since against right came take used himself few house use
place during high without again home around small however found mrs part school thought went say general once upon every
left war does got united number
""",
)
NOTE = "This manual may be copied and changed by everybody under the terms of the licence that stands on its very last page."


def sentence(chance: random.Random, length: int) -> str:
    words = [chance.choice(WORDS) for _ in range(length)]
    return " ".join(words).capitalize() + "."


def page(chance: random.Random, paragraphs: int = 4) -> str:
    return "\n\n".join(
        "\n".join(sentence(chance, chance.randint(8, 16)) for _ in range(chance.randint(2, 4))) for _ in range(paragraphs)
    )


def near_copy(chance: random.Random, text: str) -> str:
    words = text.split(" ")
    words[chance.randrange(len(words))] = "changed"
    return " ".join(words)


def texts(count: int, seed: int = 0) -> list[str]:
    """Pages: one in ten is a copy of an earlier one, one in ten nearly, one in three has the note, some are very short."""
    chance = random.Random(seed)
    found: list[str] = []
    for number in range(count):
        if number > 5 and number % 10 == 3:
            found.append(found[chance.randrange(number)])
        elif number > 5 and number % 10 == 7:
            found.append(near_copy(chance, found[chance.randrange(number)]))
        elif number % 17 == 4:
            found.append(sentence(chance, 25))
        else:
            found.append(page(chance) + (f"\n\n{NOTE}" if number % 3 == 0 else ""))
    return found


def write_lines(folder: Path, documents: list[str], files: int) -> Path:
    """Spread documents over files of JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        lines = [json.dumps({"text": text, "url": f"https://example.org/{number}"}) for text in documents[number::files]]
        (folder / f"{number:03d}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def digests(dataset: Path) -> dict[str, str]:
    """Digests of all files of a dataset but the manifest, which holds the time and the number of the run."""
    return {
        str(path.relative_to(dataset)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(dataset.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


@pytest.fixture(scope="session")
def corpus():
    return SimpleNamespace(texts=texts, write_lines=write_lines, digests=digests, near_copy=near_copy, NOTE=NOTE)
