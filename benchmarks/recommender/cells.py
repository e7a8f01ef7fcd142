"""Search in cells of 1,000,000 × 64 vectors without clusters, tuned by itself, against faiss tuned by hand in the same run.

By hand: `IVF4096,SQ8` and `IVF4096,SQ8,RFlat` of faiss 1.15.1 with its own defaults for training, probes raised in steps of 8
until recall@10 on the very queries it is measured on reaches .95 (which flatters it); the faster of the two counts. Ours is
built by `Index("ivf", recall=0.95)` and asked about queries it was not tuned by. Then where exact search stops being cheaper.
Predicted before it was run: 1.0–1.1x its queries a second (the float32 scores of four times k candidates allow fewer probes), a
build of half the CPU, recall within .01 of .95, exact and cells equal at 100,000 to 200,000 vectors for batches of 64.
Command: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recommender/cells.py [rows] (three minutes, 1.5 GB)
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import faiss
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import write

from gyral.model.retrieving.exact import Int8
from gyral.model.retrieving.index import Index
from gyral.model.retrieving.ivf import share_found

NUM = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
WIDTH, K, RECALL, ASKED, ROUNDS = 64, 10, 0.95, 1_024, 3


def decaying(num: int, random: np.random.Generator) -> np.ndarray:
    """Vectors of length one without clusters."""
    made = random.standard_normal((num, WIDTH), np.float32) * (np.arange(1, WIDTH + 1) ** -0.5).astype(np.float32)
    return np.ascontiguousarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


def timed(call, times: int = 1) -> tuple[object, float]:
    """What it gives, and its CPU seconds."""
    start = time.thread_time()
    for _ in range(times):
        made = call()
    return made, (time.thread_time() - start) / times


def main() -> None:
    faiss.omp_set_num_threads(1)
    random = np.random.default_rng(0)
    vectors, queries, tuning = decaying(NUM, random), decaying(ASKED, random), decaying(1_500, random)
    index = Index("ivf", recall=RECALL)
    index.build(vectors[:2_000], "0", queries_BD=tuning)  # compiles
    index.search(queries[:2], K)
    exact, _ = timed(lambda: Int8(vectors))
    truth, exact_64 = timed(lambda: exact.search(queries[:128], K)[0])
    rest = exact.search(queries[128:], K)[0]
    truth = np.concatenate([truth, rest])
    _, exact_1 = timed(lambda: exact.search(queries[:1], K), 3)
    card, ours_build = timed(lambda: index.build(vectors, "1", queries_BD=tuning))
    # One set of lists serves both: RFlat adds a scoring of k' candidates to the same probes.
    cells = card.cells

    def by_hand():
        made = faiss.index_factory(WIDTH, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        made.train(vectors[: 64 * cells])
        made.add(vectors)
        return made

    peer, peer_build = timed(by_hand)
    refined = faiss.IndexRefineFlat(peer, faiss.swig_ptr(vectors))
    refined.k_factor = 4

    def plain(probes, some):
        return peer.search(some, K, params=faiss.SearchParametersIVF(nprobe=probes))[1]

    def with_flat(probes, some):
        inner = faiss.SearchParametersIVF(nprobe=probes)
        return refined.search(some, K, params=faiss.IndexRefineSearchParameters(k_factor=4, base_index_params=inner))[1]

    chosen = {}
    for name, call in {"SQ8": plain, "SQ8,RFlat": with_flat}.items():
        for probes in range(8, cells + 1, 8):
            reached = share_found(call(probes, queries), truth)
            if reached >= RECALL or probes >= 320:
                chosen[name] = (probes, reached, call)
                break
    spent = {name: [] for name in ("ours", *chosen)}
    ones = {name: [] for name in spent}
    for _ in range(ROUNDS):
        for name in spent:
            call = index.search if name == "ours" else chosen[name][2]
            arguments = (lambda some: (some, K)) if name == "ours" else (lambda some, p=chosen[name][0]: (p, some))
            spent[name].append(timed(lambda: call(*arguments(queries)))[1] / ASKED)  # noqa: B023
            ones[name].append(timed(lambda: [call(*arguments(each[None])) for each in queries[:100]])[1] / 100)  # noqa: B023
    qps = {name: round(1 / statistics.median(each)) for name, each in spent.items()}
    one_qps = {name: round(1 / statistics.median(each)) for name, each in ones.items()}
    best = max((name for name in chosen if chosen[name][1] >= RECALL), key=lambda name: qps[name])
    write(
        "recommender_cells" + ("" if NUM == 1_000_000 else f"_{NUM}"),
        {
            "rows": NUM,
            "qps": qps,
            "qps_one_by_one": one_qps,
            "over_hand_tuned": round(qps["ours"] / qps[best], 3),
            "hand_tuned": {name: {"probes": each[0], "recall": round(each[1], 4)} for name, each in chosen.items()},
            "ours": {**card.told(), "recall_here": round(share_found(index.search(queries, K).ids_Bk, truth), 4)},
            "build_cpu_s": {"ours_with_tuning": round(ours_build, 2), "by_hand_without_tuning": round(peer_build, 2)},
            "exact_qps": {"batch_64": round(128 / exact_64), "batch_1": round(1 / exact_1)},
        },
    )


main()
