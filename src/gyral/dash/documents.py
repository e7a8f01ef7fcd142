"""What the page of a dataset of documents shows beside its numbers: samples of each decision, clusters side by side.

The samples were chosen and read when the dataset was made, so the page reads one small file. Differences are told by words:
what two texts share is found here, in a few milliseconds a pair, as texts are cut to their first 2,000 characters.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import msgspec

Data = dict[str, Any]
FILE = "samples.json"
MAX_BYTES = 4 << 20
MAX_PAIRS = 12
_WORD = re.compile(r"\s+|[^\s]+")


def page(folder: Path, report: Data) -> Data:
    """What a page of documents has beside the manifest.

    Parameters
    ----------
    report : of the manifest; `declared` in it counts documents by declared and by found language.
    """
    pairs = [
        (declared, found, number) for declared, row in (report.get("declared") or {}).items() for found, number in row.items()
    ]
    wrong = sorted((each for each in pairs if each[0] != each[1]), key=lambda each: -each[2])
    agreement = {"the same": sum(number for declared, found, number in pairs if declared == found)}
    agreement["another"] = sum(number for _, _, number in wrong)
    return {"samples": samples(folder), "agreement": agreement if pairs else {}, "mislabelled": wrong[:MAX_PAIRS]}


class Shown(msgspec.Struct, omit_defaults=True):
    """A document of `samples.json`; `value` is what its rule looked at, `jaccard` that with the one that was kept."""

    document: str
    text: str
    language: str | None = None
    value: float | None = None
    jaccard: float = 1.0
    picture: str = ""


class Dropped(msgspec.Struct):
    """A rule, how many documents it dropped, and some of them."""

    reason: str
    count: int
    documents: list[Shown]
    rule: str = ""
    threshold: Any = None


class Cluster(msgspec.Struct):
    """A kept document, the number of those around it, itself included, and some of them."""

    kept: Shown
    size: int
    members: list[Shown]


class Samples(msgspec.Struct):
    """What `samples.json` holds."""

    kept: list[Shown] = []
    dropped: list[Dropped] = []
    clusters: list[Cluster] = []


def samples(folder: Path) -> Data:
    """Kept and dropped documents and clusters, with their differences; empty where the file is missing or damaged."""
    path = folder / FILE
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Samples) if path.stat().st_size <= MAX_BYTES else Samples()
    except (OSError, msgspec.DecodeError):
        found = Samples()
    told: Data = msgspec.to_builtins(found)
    for cluster in told["clusters"]:
        for member in cluster["members"]:
            member["left"], member["right"] = difference(cluster["kept"]["text"], member["text"])
    return told


def difference(left: str, right: str) -> tuple[list[Data], list[Data]]:
    """Both texts in pieces: what both have, and what only one has."""
    mine, other = _WORD.findall(left), _WORD.findall(right)
    sides: tuple[list[Data], list[Data]] = ([], [])
    for tag, begin, end, other_begin, other_end in difflib.SequenceMatcher(None, mine, other, autojunk=False).get_opcodes():
        for side, piece in zip(sides, (mine[begin:end], other[other_begin:other_end]), strict=True):
            if piece:
                side.append({"same": tag == "equal", "text": "".join(piece)})
    return sides
