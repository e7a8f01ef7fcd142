"""Questions about what is to come, put to served models over HTTP, and how good their answers were.

- pages: how many bits the model needs for the text of new pages, a byte; against xz that has read the same pages before.
- pictures: which of the new pictures a caption is of, R@1 over all of them; against the chance to guess.

What the served model did worst on is told to it as people would, by `POST /v1/feedback`: pages that were foretold badly are
`rejected`, and of each caption the right picture is `chosen`. The next turn's curation finds that in the lake.
"""

from __future__ import annotations

import base64
import hashlib
import lzma
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gyral.config import Config
from gyral.course.base import Scored
from gyral.curate import pipeline, recipe
from gyral.lake import documents
from gyral.lake.dataset import Dataset
from gyral.progress import fixed
from gyral.served import FROZEN, Models, ServedModel

SCORE, SEARCH, PICTURES = "/v1/score", "/v1/search", "/v1/pictures"
ASKED_BYTES, PAGE_BYTES = 200_000, 4_000
"""Text that is asked about in a turn, and of one page at most."""
KNOWN_BYTES = 4 << 20
"""Learned text that xz has before it: half of what its dictionary holds."""
REJECTED_SHARE = 0.25
MAX_PICTURES = 500
PICTURES_BYTES = 40_000
"""Of pictures in one request."""


class Page(NamedTuple):
    """A page to come."""

    file: str
    text: str


def pages(slice_: Sequence[pa.RecordBatch], data: Dataset, models: Models, served: ServedModel, config: Config) -> Scored:
    """Bits per byte of new pages, for the looped and the frozen model, and for xz."""
    learned = [text for batch in documents.batches(data, ()) for text in batch.column("text").to_pylist() if text]
    chosen = _pages(slice_, set(map(hash, learned)), config)
    requests = [{"texts": [page.text], "object": page.file} for page in chosen]
    looped = served.ask(requests, models.looped, SCORE)
    frozen = served.ask([{**request, "model": FROZEN} for request in requests], models.frozen, SCORE)
    sizes = np.array([len(page.text.encode()) for page in chosen])
    bits = {
        name: np.array([sum(body["bits"]) for body in told.bodies]) for name, told in (("looped", looped), ("frozen", frozen))
    }
    scores: dict[str, float | None] = {name: float(each.sum() / max(sizes.sum(), 1)) for name, each in bits.items()}
    scores["xz"] = xz_bits_per_byte(learned, [page.text for page in chosen])
    worst = np.argsort(-bits["looped"] / np.maximum(sizes, 1))[: int(REJECTED_SHARE * len(chosen))]
    ids = [looped.bodies[place]["request_id"] for place in worst]
    served.tell(
        [
            {"request_id": each, "verdict": "rejected", "object": chosen[place].file}
            for each, place in zip(ids, worst, strict=True)
        ]
    )
    row = {
        "metric": "bits_per_byte",
        "baseline": "xz",
        "scores": scores,
        "num_asked": len(chosen),
        "bytes_asked": int(sizes.sum()),
    }
    listed = ", ".join(f"{name} {fixed(value, 3)}" for name, value in scores.items())
    return Scored(row, looped.p99_ms, looped.first_at, f"bits per byte {listed} over {len(chosen):,} new pages")


def _pages(slice_: Sequence[pa.RecordBatch], known: set[int], config: Config) -> list[Page]:
    """Some of the pages to come, made text of as curation does; the order is that of a hash of their names."""
    stages = [recipe.extract(config), recipe.repair(config)]
    found: list[tuple[bytes, Page]] = []
    for batch in slice_:
        made = pipeline.through(batch, stages)
        for file, text in zip(made.column("file").to_pylist(), made.column("text").to_pylist(), strict=True):
            if text and text.strip() and hash(text) not in known:
                cut = text.encode()[:PAGE_BYTES].decode("utf-8", "ignore")
                found.append((hashlib.blake2b(file.encode(), digest_size=8).digest(), Page(file, cut)))
    chosen: list[Page] = []
    size = 0
    for _, page in sorted(found, key=lambda pair: pair[0]):
        size += len(page.text.encode())
        if size > ASKED_BYTES or len(chosen) >= config.loop.max_asked:
            break
        chosen.append(page)
    return chosen


def xz_bits_per_byte(learned: Sequence[str], texts: Sequence[str]) -> float | None:
    """Bits that xz needs more for the texts than for the learned ones before them, a byte."""
    if not texts:
        return None
    before, size = [], 0
    for text in reversed(learned):
        before.append(text.encode())
        size += len(before[-1])
        if size > KNOWN_BYTES:
            break
    known, new = b"\n".join(reversed(before)), b"\n".join(text.encode() for text in texts)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 8 << 20}]
    sizes = [len(lzma.compress(body, lzma.FORMAT_RAW, filters=filters)) for body in (known, known + b"\n" + new)]
    return 8 * (sizes[1] - sizes[0]) / len(new)


def pictures(slice_: Sequence[pa.RecordBatch], data: Dataset, models: Models, served: ServedModel, config: Config) -> Scored:
    """R@1 of caption → picture among the new pictures, for the looped and the frozen model, and for a guess.

    The new pictures are shown to the server, which finds them from then on without having learned from them.
    """
    shown: dict[str, bytes] = {}
    captions: dict[str, list[tuple[str, str]]] = {}
    for batch in slice_:
        for file, declared, raw, text in zip(*(batch.column(name).to_pylist() for name in _PAIR), strict=True):
            if raw and text and (file in shown or len(shown) < MAX_PICTURES):
                shown[file] = raw
                captions.setdefault(file, []).append((declared or "", text))
    rng = np.random.default_rng(config.train.seed)
    asked = [(file, *captions[file][int(rng.integers(len(captions[file])))]) for file in shown]
    scores: dict[str, float | None] = {}
    answers = {}
    for name, model in (("looped", models.looped), ("frozen", models.frozen)):
        slot = {"model": FROZEN} if name == "frozen" else {}
        served.ask([{**slot, "pictures": some} for some in _in_requests(shown)], model, PICTURES)
        requests = [{**slot, "text": text, "language": language, "k": 10, "among": "shown"} for _, language, text in asked]
        answers[name] = told = served.ask(requests, model, SEARCH)
        right = [bool(objects) and objects[0] == file for objects, (file, _, _) in zip(told.objects, asked, strict=True)]
        scores[name] = float(np.mean(right)) if right else None
    scores["chance"] = 1 / len(shown) if shown else None
    looped = answers["looped"]
    served.tell(
        [
            {"request_id": body["request_id"], "verdict": "chosen", "object": file}
            for body, (file, _, _) in zip(looped.bodies, asked, strict=True)
        ]
    )
    row = {"metric": "r_at_1", "baseline": "chance", "scores": scores, "num_asked": len(asked)}
    listed = ", ".join(f"{name} {fixed(value)}" for name, value in scores.items())
    return Scored(row, looped.p99_ms, looped.first_at, f"R@1 {listed} over {len(asked):,} new pictures")


_PAIR = ("file", "declared", "raw", "text")


def _in_requests(shown: dict[str, bytes]) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = []
    size = PICTURES_BYTES
    for file, raw in shown.items():
        if size + len(raw) > PICTURES_BYTES:
            found.append([])
            size = 0
        found[-1].append({"object": file, "raw": base64.b64encode(raw).decode()})
        size += 4 * len(raw) // 3
    return found
