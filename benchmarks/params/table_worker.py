"""One table of `table.py` in a process of its own: reads `<what> <ids>` lines, does it, answers CPU seconds a batch.

Runs in the environment of its peer, so it knows numpy and that. One thread.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3")
os.environ.update(TF_USE_LEGACY_KERAS="1", MKL_NUM_THREADS="1", THP_MEM_ALLOC_ENABLE="1")  # huge pages for torch's tensors too
import numpy as np

NUM, DIM, BATCH, BATCHES, RATE = 2_000_000, 32, 65_536, 8, 0.05


def ids(which: str) -> list[np.ndarray]:
    """Batches of ids below `NUM`: even, or Zipf of exponent 1.2 (10,900 different ones in 65,536), the order shuffled."""
    rng = np.random.default_rng(1)
    if which == "uniform":
        return [rng.integers(0, NUM, BATCH) for _ in range(BATCHES)]
    chance = np.cumsum(1 / np.arange(1, NUM + 1) ** 1.2)
    order = rng.permutation(NUM)
    return [order[np.searchsorted(chance, rng.random(BATCH) * chance[-1])] for _ in range(BATCHES)]


def of_gyral() -> dict[str, Callable[[np.ndarray], Any]]:
    import torch

    from gyral.params.embedding import Embedding
    from gyral.params.spec import Optimizer, TableSpec
    from gyral.params.table import Table

    torch.set_num_threads(1)
    before = resident_bytes()
    table = Table(TableSpec("items", DIM, optimizer=Optimizer("rowwise_adagrad", rate=RATE)))
    for first in range(0, NUM, BATCH):
        keys = np.arange(first, min(NUM, first + BATCH))
        table.push(keys, np.zeros((len(keys), DIM), np.float32))
    said = {"bytes_a_key": table.nbytes / NUM, "resident_bytes_a_key": (resident_bytes() - before) / NUM}
    layer, grads, dense = Embedding(table), torch.randn(BATCH, DIM), torch.randn(NUM, DIM)
    numpy_grads = grads.numpy()

    def beside(keys: np.ndarray) -> None:
        found = table.find(keys)
        table.read(found)
        table.step(found, numpy_grads)

    return {
        "train": lambda keys: layer(torch.from_numpy(keys)).backward(grads),
        "memory": lambda _: said,
        "pull": lambda keys: table.pull(keys),
        "table": beside,
        "gather": lambda keys: torch.index_select(dense, 0, torch.from_numpy(keys)),
    }


def of_torch() -> dict[str, Callable[[np.ndarray], Any]]:
    import torch

    torch.set_num_threads(1)
    torch.sparse.check_sparse_tensor_invariants.disable()
    layer, grads = torch.nn.Embedding(NUM, DIM, sparse=True), torch.randn(BATCH, DIM)
    optimizer = torch.optim.Adagrad(layer.parameters(), lr=RATE)

    def train(keys: np.ndarray) -> None:
        optimizer.zero_grad()
        layer(torch.from_numpy(keys)).backward(grads)
        optimizer.step()

    def pull(keys: np.ndarray) -> None:
        with torch.no_grad():
            layer(torch.from_numpy(keys))

    return {"train": train, "pull": pull}


def of_fbgemm() -> dict[str, Callable[[np.ndarray], Any]]:
    import torch
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    torch.set_num_threads(1)

    def static(optimizer: Any) -> Any:
        one = (NUM, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)
        return SplitTableBatchedEmbeddingBagsCodegen([one], optimizer=optimizer, learning_rate=RATE)

    layer, plain = static(EmbOptimType.EXACT_ROWWISE_ADAGRAD), static(EmbOptimType.EXACT_SGD)
    grads, offsets = torch.randn(BATCH, DIM), torch.arange(BATCH + 1)

    def pull(keys: np.ndarray) -> None:
        with torch.no_grad():
            layer(torch.from_numpy(keys), offsets)

    return {
        "train": lambda keys: layer(torch.from_numpy(keys), offsets).backward(grads),
        "train_sgd": lambda keys: plain(torch.from_numpy(keys), offsets).backward(grads),
        "pull": pull,
    }


def of_tfra() -> dict[str, Callable[[np.ndarray], Any]]:
    import tensorflow as tf
    import tensorflow_recommenders_addons as tfra

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    dynamic = tfra.dynamic_embedding
    table = dynamic.get_variable("items", key_dtype=tf.int64, value_dtype=tf.float32, dim=DIM, initializer=0.01)
    sums = dynamic.get_variable("sums", key_dtype=tf.int64, value_dtype=tf.float32, dim=1, initializer=0.1)
    for first in range(0, NUM, BATCH):
        keys = tf.range(first, min(NUM, first + BATCH), dtype=tf.int64)
        table.upsert(keys, tf.random.normal([len(keys), DIM]))
        sums.upsert(keys, tf.fill([len(keys), 1], 0.1))
    grads = tf.random.normal([BATCH, DIM])

    @tf.function
    def pull(keys: Any) -> Any:
        return table.lookup(keys)

    @tf.function
    def train(keys: Any) -> None:
        """What its optimizer does, without Keras: each key once, look up, rowwise step, put back."""
        distinct, inverse = tf.unique(keys, out_idx=tf.int32)
        rows = table.lookup(distinct)
        tf.gather(rows, inverse)
        total = tf.math.unsorted_segment_sum(grads, inverse, tf.size(distinct))
        state = sums.lookup(distinct) + tf.reduce_mean(total * total, axis=1, keepdims=True)
        sums.upsert(distinct, state)
        table.upsert(distinct, rows - RATE * total / (tf.sqrt(state) + 1e-8))

    return {"train": lambda keys: train(tf.constant(keys)), "pull": lambda keys: pull(tf.constant(keys))}


def resident_bytes() -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def main() -> None:
    calls = {"gyral": of_gyral, "torch": of_torch, "fbgemm": of_fbgemm, "tfra": of_tfra}[sys.argv[1]]()
    batches = {which: ids(which) for which in ("uniform", "zipf")}
    print("ready", flush=True)
    for line in sys.stdin:
        what, which = line.split()
        if what == "memory":
            print(json.dumps(calls[what](np.zeros(0))), flush=True)
            continue
        times = []
        for keys in batches[which]:
            start = time.process_time()
            calls[what](keys)
            times.append(time.process_time() - start)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
