"""What near-duplicate removal takes away, against the truth about all pairs of a real collection.

Truth: every pair of documents with a Jaccard of .5 or more, by other code (`near_truth.py`). Asked of gyral: is anything
removed below the stated Jaccard; what share of the pairs of .8 and more was found and verified; what do finding, verifying and
deciding cost beside the signatures. Asked of the peers' way, all that share a band are one cluster and its first document
stays: how much of what it removes is not near to what stays; once with gyral's bands, once with datatrove's own signatures.

Command: .venv/bin/python benchmarks/curate/dedup.py (five minutes)
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import pyarrow as pa
import xxhash
from curate.near_documents import load
from curate.near_truth import all_pairs, jaccard_of, shingles
from measure import RESULTS, machine, write

from gyral.curate.near.minhash import MinHash
from gyral.curate.near.pairs import Nodes, Pairs, Settings, find_pairs
from gyral.curate.near.star import star

ROUNDS, BATCH, THRESHOLD = 5, 2_000, 0.8


def main() -> None:
    paths, texts = load()
    size_bytes = np.array([len(text.encode()) for text in texts], np.int64)
    names = [xxhash.xxh3_128_intdigest(text.encode()) for text in texts]
    digests = np.array([[name >> 64, name % 2**64] for name in names], np.uint64)
    order = np.lexsort((digests[:, 1], digests[:, 0], -size_bytes))
    batches = [pa.array(texts[begin : begin + BATCH]) for begin in range(0, len(texts), BATCH)]
    stage = MinHash()

    def read(rows: np.ndarray) -> Iterator[pa.StringArray]:
        for number, batch in enumerate(batches):
            mine = rows[(rows >= number * BATCH) & (rows < (number + 1) * BATCH)] - number * BATCH
            if len(mine):
                yield batch.take(pa.array(mine))

    def once(keys: np.ndarray, counts: np.ndarray, folder: Path) -> tuple[Pairs, np.ndarray, np.ndarray]:
        pairs = find_pairs([Nodes(digests, keys, counts, size_bytes)], read, Settings(), folder)
        return pairs, *star(len(texts), pairs, order, np.ones(len(texts), bool), THRESHOLD)

    took: dict[str, list[float]] = {"signatures": [], "pairs_and_star": [], "again_from_the_cache": []}
    for number in range(ROUNDS + 1):
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            signed = [stage.sign(batch) for batch in batches]
            middle = time.process_time()
            keys, counts = (np.concatenate(column) for column in zip(*signed, strict=True))
            pairs, twin, _ = once(keys, counts, Path(folder))
            end = time.process_time()
            again = once(keys, counts, Path(folder))[0]
            if number:  # the first compiles
                took["signatures"].append(middle - start)
                took["pairs_and_star"].append(end - middle)
                took["again_from_the_cache"].append(time.process_time() - end)
            if not np.array_equal(again.jaccard, pairs.jaccard):
                raise SystemExit("the cache gave other pairs")
    cpu = {name: round(statistics.median(values), 3) for name, values in took.items()}

    sets = shingles(texts)
    truth = all_pairs(sets, 0.5)
    found = dict(zip(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True), pairs.jaccard.tolist(), strict=True))
    removed = [(row, int(kept)) for row, kept in enumerate(twin) if kept >= 0]
    as_datatrove = np.concatenate([MinHash(compatible="datatrove").sign(batch)[0] for batch in batches])
    result = {
        "documents": len(texts),
        "mb": round(size_bytes.sum() / 1e6, 1),
        "cpu_s": cpu,
        "total_to_signatures": round((cpu["signatures"] + cpu["pairs_and_star"]) / cpu["signatures"], 3),
        "signature_mb_per_cpu_s": round(size_bytes.sum() / 1e6 / cpu["signatures"], 1),
        "counts": pairs.counts,
        "wrong_jaccards": sum(abs(truth.get(pair, 0) - value) > 1e-6 for pair, value in found.items()),
        "recall": {str(least): recall(truth, found, least) for least in (0.5, 0.7, 0.8, 0.85, 0.9, 0.95)},
        "gyral": errors(sets, removed),
        "left_by_missed_pairs": left_over(truth, twin),
        "union_find_same_bands": errors(sets, components(keys)),
        "union_find_datatrove_signatures": errors(sets, components(as_datatrove)),
    }
    write("curate_dedup", result)
    (RESULTS / "curate_dedup_truth.md").write_text(report(result, worst(sets, components(keys), paths)))


def recall(truth: dict[tuple[int, int], float], found: dict[tuple[int, int], float], least: float) -> dict[str, Any]:
    """Pairs of at least this Jaccard, how many were found, and what 14 bands of 8 promise for them."""
    near = [pair for pair, jaccard in truth.items() if jaccard >= least]
    promised = statistics.mean(1 - (1 - truth[pair] ** 8) ** 14 for pair in near)
    return {
        "pairs": len(near),
        "found": sum(pair in found for pair in near),
        "share": round(sum(pair in found for pair in near) / len(near), 4),
        "promised": round(promised, 4),
    }


def left_over(truth: dict[tuple[int, int], float], twin: np.ndarray) -> int:
    """Kept documents that have a kept neighbour at the threshold all the same."""
    left = {b for (a, b), jaccard in truth.items() if jaccard >= THRESHOLD and twin[a] < 0 and twin[b] < 0}
    return len(left)


def components(keys: np.ndarray) -> list[tuple[int, int]]:
    """All that share a band are one: each document but the first, and the first of its component."""
    parent = list(range(len(keys)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    first: dict[int, int] = {}
    for row, bands in enumerate(keys.tolist()):
        for key in bands if any(bands) else ():
            one, other = sorted((root(first.setdefault(key, row)), root(row)))
            parent[other] = one
    return [(row, root(row)) for row in range(len(keys)) if root(row) != row]


def errors(sets: Sequence[np.ndarray], removed: list[tuple[int, int]]) -> dict[str, Any]:
    """How near what was removed is to what stays in its place."""
    values = np.array([jaccard_of(sets[row], sets[kept]) for row, kept in removed])
    below = {f"below_{least}": int((values < least).sum()) for least in (0.3, 0.5, 0.7, 0.8)}
    shares = {f"share_below_{least}": round(float((values < least).mean()), 4) for least in (0.5, 0.7, 0.8)}
    return {"removed": len(removed), "least_jaccard": round(float(values.min()), 4), **below, **shares}


Example = tuple[float, str, str]


def worst(sets: Sequence[np.ndarray], removed: list[tuple[int, int]], paths: Sequence[str]) -> list[Example]:
    """The removals of the peers' way that are furthest from what stays, tiny documents apart."""
    rows = [(jaccard_of(sets[row], sets[kept]), paths[row], paths[kept]) for row, kept in removed if len(sets[row]) > 100]
    return sorted(rows)[:12]


def report(result: dict[str, Any], examples: list[Example]) -> str:
    """The result for a reader."""
    where = machine()
    lines = [
        "# Near-duplicates: what is removed, and what the truth says",
        "",
        f"{result['documents']:,} distinct documents, {result['mb']} MB of Debian's documents; all pairs with a Jaccard of "
        f"five-word shingles of .5 or more, by other code. Commit {where['commit']}, {where['date']}.",
        "Command: `.venv/bin/python benchmarks/curate/dedup.py`",
        "",
        "| | removed | least Jaccard to what stays | below .8 | below .7 | below .5 |",
        "|---|---|---|---|---|---|",
    ]
    titles = {
        "gyral": "gyral: verified, star to the longest",
        "union_find_same_bands": "the same bands, all hits joined, first stays",
        "union_find_datatrove_signatures": "datatrove's signatures, all hits joined, first stays",
    }
    for name, title in titles.items():
        row = result[name]
        cells = [f"{row[f'below_{least}']:,} ({100 * row[f'share_below_{least}']:.1f} %)" for least in (0.8, 0.7, 0.5)]
        lines.append(f"| {title} | {row['removed']:,} | {row['least_jaccard']:.3f} | {' | '.join(cells)} |")
    lines += ["", "The last row is measured by gyral's shingles; datatrove makes every number 0: part of the difference."]
    lines += ["", "| pairs with a Jaccard of | there are | found | share | 14 bands of 8 promise |", "|---|---|---|---|---|"]
    for least, row in result["recall"].items():
        lines.append(f"| {least} or more | {row['pairs']:,} | {row['found']:,} | {row['share']:.4f} | {row['promised']:.4f} |")
    cpu, counts = result["cpu_s"], result["counts"]
    lines += [
        "",
        f"- Signatures: {cpu['signatures']} CPU s, {result['signature_mb_per_cpu_s']} MB a CPU second.",
        f"- Finding, verifying, deciding: {cpu['pairs_and_star']} s; in all {result['total_to_signatures']} times the first.",
        f"- The same again with all pairs known: {cpu['again_from_the_cache']} s.",
        f"- {counts['candidates']:,} candidates, {counts['below_floor']:,} of them below .5; {counts['texts_read']:,} read.",
        f"- Buckets over the cap: {counts['capped_buckets']:,}.",
        f"- Stored Jaccards that differ from the truth: {result['wrong_jaccards']}.",
        f"- Documents that a missed pair leaves: {result['left_by_missed_pairs']}.",
        "",
        "Removals of joined hits that are furthest from what stays (documents of more than 100 shingles):",
        "",
        "| Jaccard | removed | stays |",
        "|---|---|---|",
        *(f"| {value:.3f} | `{one}` | `{other}` |" for value, one, other in examples),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
