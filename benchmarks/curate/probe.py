"""Does a probe see what is known to be so? Variants of real documentation in 50 languages, scored on clean text kept aside.

Text: `prose.py`. Kept aside: 300 pages of at least 500 characters, one of each distinct text, of which no other page is a copy;
what training pages share with them (13 words in a row) is cut from those. Variants, the pages that are left:

- raw: all of them. A third of the pages of `gnome-user-docs` stand untranslated in the folders of many languages.
- exact: one page of each distinct text.
- paragraphs: of those, each paragraph of more than 60 characters once, where it comes first.
- junk: `exact` with as many bytes again of what crawls bring: bytes in base64, lists of numbers, keywords in random order.
- cheating: `exact` and the held-out pages three times: if it gained anything, what is kept aside would leak.

`five_draws` repeats it under five seeds of the draw: what chance does to a row, which the interval does not hold.

At equal bytes each is trained on 10 MB, or on what the smallest has; `full` has all of each. Also: what the n-gram model takes
to train and to score, against `xz` and `bz2` on the same text, and the same for other orders. CPU seconds of the process,
kernels compiled before, median of the rounds.
Command: .venv/bin/python benchmarks/curate/probe.py (about three minutes of CPU)
"""

from __future__ import annotations

import base64
import bz2
import lzma
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import own_peak_bytes, write
from prose import prose

from gyral.curate.probe import Ngrams, Row, probe

HELD_OUT, MIN_CHARS, ROUNDS = 300, 500, 3


def junk(texts: list[str], size_bytes: int) -> list[str]:
    """Pages of base64, of numbers and of keywords, this many bytes together."""
    random = np.random.default_rng(1)
    words = np.array(sorted({word for text in texts[:500] for word in text.split()}))
    pages, left = [], size_bytes
    while left > 0:
        kind = len(pages) % 3
        if kind == 0:
            page = base64.b64encode(random.bytes(3_000)).decode()
        elif kind == 1:
            page = "\n".join(" ".join(f"{value:.2f}" for value in row) for row in random.normal(100, 50, (60, 8)))
        else:
            page = " ".join(random.choice(words, 400))
        pages.append(page)
        left -= len(page.encode())
    return pages


def variants(texts: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The pages kept aside, and the others in each variant."""
    times = Counter(texts)
    distinct = list(times)
    random = np.random.default_rng(0)
    able = [text for text in distinct if len(text) >= MIN_CHARS and times[text] == 1]
    held_out = [able[place] for place in random.choice(len(able), HELD_OUT, replace=False)]
    aside = set(held_out)
    raw = [text for text in texts if text not in aside]
    exact = [text for text in distinct if text not in aside]
    seen: set[str] = set()
    paragraphs = []
    for text in exact:
        kept = []
        for paragraph in text.split("\n\n"):
            if len(paragraph) <= 60 or paragraph not in seen:
                kept.append(paragraph)
            seen.add(paragraph)
        if kept:
            paragraphs.append("\n\n".join(kept))
    return held_out, {
        "raw": raw,
        "exact": exact,
        "paragraphs": paragraphs,
        "junk": exact + junk(exact, sum(len(text.encode()) for text in exact)),
        "cheating": held_out * 3 + exact,
    }


def arrays(texts: list[str]) -> list[pa.StringArray]:
    return [pa.array(texts[begin : begin + 1_000], pa.string()) for begin in range(0, len(texts), 1_000)]


def used(run: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, median of the rounds, and what came out."""
    took = []
    for _ in range(ROUNDS):
        start = time.process_time()
        made = run()
        took.append(time.process_time() - start)
    return statistics.median(took), made


def model(held_out: list[str], texts: list[str]) -> dict[str, Any]:
    """The n-gram model beside general compressors, at 10 MB: bits per byte, and MB a CPU-second."""
    random = np.random.default_rng(3)
    train, size = [], 0
    for place in random.permutation(len(texts)):
        if size < 10_000_000:
            train.append(texts[place])
            size += len(texts[place].encode())
    test = pa.array(held_out)
    test_bytes = sum(len(text.encode()) for text in held_out)
    Ngrams([pa.array(["a"])])(pa.array(["b"]))
    found: dict[str, Any] = {"train_bytes": size, "test_bytes": test_bytes}
    for order in (5, 6, 7):
        train_s, made = used(lambda order=order: Ngrams(arrays(train), size, order))
        score_s, bits = used(lambda made=made: made(test).sum())
        rates = {
            "train_mb_per_cpu_s": round(size / 1e6 / train_s, 1),
            "score_mb_per_cpu_s": round(test_bytes / 1e6 / score_s, 1),
        }
        found[f"order_{order}"] = {"bits_per_byte": round(bits / test_bytes, 4), **rates}
    known, both = "\n".join(train).encode(), "\n".join(train + held_out).encode()
    took, size_xz = used(lambda: len(lzma.compress(known, preset=9)))
    after = (len(lzma.compress(both, preset=9)) - size_xz) * 8 / test_bytes
    found["xz"] = {"bits_per_byte_after_the_same_text": round(after, 4), "train_mb_per_cpu_s": round(size / 1e6 / took, 1)}
    found["bz2"] = {"bits_per_byte_alone": round(len(bz2.compress("\n".join(held_out).encode())) * 8 / test_bytes, 4)}
    return found


def told(rows: list[Row]) -> dict[str, Any]:
    """Rows by name, numbers rounded."""
    fields = [field for field in Row.__struct_fields__ if field != "name"]
    return {row.name: {field: round(getattr(row, field), 4) for field in fields} for row in rows}


def main() -> None:
    texts = pq.read_table(prose())["text"].to_pylist()
    held_out, made = variants(texts)
    aside = pa.array(held_out)
    as_arrays = {name: arrays(each) for name, each in made.items()}
    sizes = {name: sum(len(text.encode()) for text in each) for name, each in made.items()}
    out: dict[str, Any] = {"held_out": len(held_out), "bytes": sizes, "model": model(held_out, made["exact"])}
    took_s, equal = used(lambda: probe(as_arrays, aside))
    out["equal_bytes"] = told(equal)
    out["probe_cpu_s"] = round(took_s, 2)
    out["probe_read_mb_per_cpu_s"] = round(sum(sizes.values()) / 1e6 / took_s, 1)
    draws: dict[str, list[float]] = {name: [] for name in as_arrays}
    for seed in range(5):
        for row in probe(as_arrays, aside, seed=seed):
            draws[row.name].append(row.bits_per_byte)
    out["five_draws"] = {name: [round(value, 4) for value in each] for name, each in draws.items()}
    changes = {name: np.array(each) - np.array(draws["raw"]) for name, each in draws.items() if name != "raw"}
    out["change_over_draws"] = {
        name: {"mean": round(float(each.mean()), 4), "sd": round(float(each.std(ddof=1)), 4)} for name, each in changes.items()
    }
    out["full"] = told(probe(as_arrays, aside, budget_bytes=0))
    out["peak_bytes"] = own_peak_bytes()
    write("curate_probe", out)


if __name__ == "__main__":
    main()
