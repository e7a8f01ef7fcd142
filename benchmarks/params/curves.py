"""What freshness, tables without collisions and bounded staleness are worth: MovieLens-100K through the whole system.

Ratings in time order, label rating ≥ 4, logistic factors (dim 16 and a bias) of users and items, rowwise Adagrad, one step a
rating. AUC over the last 80 %, of what was foretold before each rating was learned:

    refresh      one run; each rating is foretold by the table itself (1), and by replicas that follow the shard's cuts and are
                 refreshed every 100 and 1,000 ratings, or never again after the first 20,000 (never)
    collisions   the same run with ids hashed to as many buckets as there are ids
    staleness    random order, 8 passes, a tenth held out: gradients are computed that many examples before they are pushed

What it goes through: `client.open`, shards in this process (`local://2`), cuts written and synced, `Follower`, `Replica`; keys
in one table, users from 0, items from 1,000,000.

Prediction, written before: the curve of a plain loop measured before (.763, .733, .708, .673) within .004. Its rate and
first values are not told there; with .1 and .01 the first run had .763, .737, .715, .682. A search over both in a plain numba
loop named .2 and .16, whose plain loop has .760, .732, .710, .677. In `staleness` gradients 4,096 examples old cost .3 points
with a rate of .1, and .05 in a plain loop with .05, which several passes need anyway: that is what it has.

    .venv/bin/python benchmarks/params/curves.py [refresh | collisions | staleness]      (all three: about five CPU-minutes)
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recommender"))
import measure

from gyral.ingest.sources import open_source
from gyral.params import client
from gyral.params.chain import Folder
from gyral.params.client import Client, Handle
from gyral.params.follow import Follower
from gyral.params.replica import Replica, Writer
from gyral.params.shard import Settings
from gyral.params.spec import Optimizer, TableSpec

SOURCE = "pip:recbole==1.2.1!/recbole/dataset_example/ml-100k/ml-100k.inter"
DIM, WARM, ITEMS = 16, 20_000, 1_000_000
SPEC = TableSpec("factors", DIM + 1, Optimizer("rowwise_adagrad", rate=0.2), scale=0.16)
SLOW = TableSpec("factors", DIM + 1, Optimizer("rowwise_adagrad", rate=0.05), scale=0.05)
"""For several passes."""
SHARDS = 2
EVERY = {"100": 100, "1000": 1_000, "never": 0}


def ratings() -> tuple[np.ndarray, np.ndarray]:
    """Keys of user and item, int64 [N, 2], and labels, float32 [N], in time order."""
    batches = [rows.batch for rows in open_source(SOURCE, Path(), lambda _: None).batches(1 << 20)]
    names = {name.partition(":")[0]: name for name in batches[0].schema.names}
    user, item, rating, moment = (
        np.concatenate([batch[names[name]].to_numpy(zero_copy_only=False).astype(float) for batch in batches])
        for name in ("user_id", "item_id", "rating", "timestamp")
    )
    order = np.argsort(moment, kind="stable")
    keys_N2 = np.stack([user, item + ITEMS], axis=1).astype(np.int64)[order]
    return keys_N2, (rating[order] >= 4).astype(np.float32)


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Share of pairs in order; ties count half."""
    _, group, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank, num = (np.cumsum(count) - (count - 1) / 2)[group], labels.sum()
    return float((rank[labels > 0].sum() - num * (num + 1) / 2) / (num * (len(labels) - num)))


def scored(rows_22D: np.ndarray) -> np.ndarray:
    """Logits of pairs, [..., 2, D] → [...]."""
    left, right = rows_22D[..., 0, :], rows_22D[..., 1, :]
    found: np.ndarray = (left[..., :DIM] * right[..., :DIM]).sum(-1) + left[..., DIM] + right[..., DIM]
    return found


def gradient(rows_2D: np.ndarray, label: float) -> tuple[float, np.ndarray]:
    """The logit of a pair, and the gradient of its rows."""
    logit = float(scored(rows_2D))
    miss = np.float32(1 / (1 + np.exp(-logit)) - label)
    grads_2D = rows_2D[::-1] * miss
    grads_2D[:, DIM] = miss
    return logit, grads_2D


class Served:
    """A replica of its own follower, refreshed now and then."""

    def __init__(self, folder: Path, name: str) -> None:
        self._writer = Writer(folder / f"{name}.replica", SPEC, max_rows=100_000)
        sources = [Folder(folder / "server" / f"shard{number}") for number in range(SHARDS)]
        self._followers = [Follower(source, {SPEC.name: self._writer}) for source in sources]
        self._replica = Replica(folder / f"{name}.replica")
        self.logits: list[np.ndarray] = []

    def refresh(self) -> None:
        """Take in all cuts there are."""
        for follower in self._followers:
            follower.poll()

    def foretell(self, keys_K2: np.ndarray) -> None:
        """Logits of the next ratings, all by the same version."""
        self.logits.append(scored(self._replica.lookup(keys_K2.reshape(-1))[0].reshape(-1, 2, SPEC.dim)))

    def close(self) -> None:
        self._writer.close()


def learned(table: Handle, keys_2: np.ndarray, label: float) -> float:
    """One rating: foretold by the table, then pushed."""
    logit, grads_2D = gradient(table.pull(keys_2)[0], label)
    table.push(keys_2, grads_2D)
    return logit


def opened(folder: Path | None, spec: TableSpec = SPEC) -> Client:
    return client.open(f"local://{1 if folder is None else SHARDS}", [spec], folder=folder, settings=Settings(cut_s=1e6))


def refresh() -> dict[str, Any]:
    """AUC by interval between refreshes."""
    keys_N2, labels = ratings()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with opened(folder / "server") as worker:
            table, served = worker.table(SPEC.name), {name: Served(folder, name) for name in EVERY}
            live = np.zeros(len(labels))
            for at in range(0, len(labels), 100):
                due = [name for name, every in EVERY.items() if (at % every == 0 if every else at == WARM)]
                if due:
                    worker.flush()
                for name, each in served.items():
                    if name in due:
                        each.refresh()
                    each.foretell(keys_N2[at : at + 100])
                for place in range(at, at + 100):
                    live[place] = learned(table, keys_N2[place], labels[place])
            for each in served.values():
                each.close()
    logits = {"1": live, **{name: np.concatenate(each.logits) for name, each in served.items()}}
    return {name: round(auc(labels[WARM:], each[WARM:]), 4) for name, each in logits.items()}


def collisions() -> dict[str, Any]:
    """AUC of ids as they are, and of ids hashed to as many buckets."""
    keys_N2, labels = ratings()
    found = {}
    for name in ("free", "hashed"):
        keys = keys_N2.copy()
        if name == "hashed":
            for column in (0, 1):
                ids, at = np.unique(keys[:, column], return_inverse=True)
                keys[:, column] = np.random.default_rng(column).integers(0, len(ids), len(ids))[at] + ITEMS * column
        with opened(None) as worker:
            table = worker.table(SPEC.name)
            logits = np.array([learned(table, *each) for each in zip(keys, labels, strict=True)])
        found[name] = round(auc(labels[WARM:], logits[WARM:]), 4)
    return found


def staleness(delays: tuple[int, ...] = (0, 4_096), passes: int = 8, seeds: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """AUC on a held-out tenth by how many examples old gradients are."""
    keys_N2, labels = ratings()
    found: dict[str, Any] = {}
    for delay in delays:
        every = []
        for seed in seeds:
            rng = np.random.default_rng(seed)
            order = rng.permutation(len(labels))
            held, kept = order[: len(order) // 10], order[len(order) // 10 :]
            with opened(None, SLOW) as worker:
                table, late = worker.table(SPEC.name), deque[tuple[np.ndarray, np.ndarray]]()
                for _ in range(passes):
                    for place in rng.permutation(kept):
                        late.append((keys_N2[place], gradient(table.pull(keys_N2[place])[0], labels[place])[1]))
                        if len(late) > delay:
                            table.push(*late.popleft())
                rows = table.pull(keys_N2[held].reshape(-1))[0].reshape(-1, 2, SPEC.dim)
            every.append(auc(labels[held], scored(rows)))
        found[str(delay)] = {"auc": round(float(np.mean(every)), 4), "all": [round(each, 4) for each in every]}
    return found


def main() -> None:
    parts = {"refresh": refresh, "collisions": collisions, "staleness": staleness}
    told: dict[str, Any] = {}
    for name in sys.argv[1:] or list(parts):
        begun = time.process_time()
        told[name] = {**parts[name](), "cpu_s": round(time.process_time() - begun, 1)}
    measure.write("params_staleness" if list(told) == ["staleness"] else "params_curves", told)


if __name__ == "__main__":
    main()
