"""Tables as dicts of numpy rows with one shard's rule of exactly once: what a push is worth, in plain words."""

import numpy as np

from gyral.model.live import tables as t


class StandIn:
    """Keeps each push until `keep` says that the disk has it; `crash` goes back to what the disk had."""

    def __init__(self, specs=None):
        self.specs = specs or t.specs(dim=8)
        self.rows = {name: {} for name in self.specs}
        self.state = {name: {} for name in self.specs}
        self.last = self.durable = 0
        self.pushes = []
        self.keep()

    def pull(self, table, keys):
        spec, rows = self.specs[table], self.rows[table]
        out = np.zeros((len(keys), spec.dim), np.float32)
        for at, key in enumerate(keys.tolist()):
            out[at] = rows[key] if key in rows else self._first(spec, key)
        return out

    @staticmethod
    def _first(spec, key):
        if spec.init == "zero":
            return np.zeros(spec.dim, np.float32)
        return np.random.default_rng(abs(key)).normal(0, spec.scale, spec.dim).astype(np.float32)

    def push(self, seq, grads, at):
        self.pushes.append(seq)
        if seq <= self.last:
            return
        self.last = seq
        for table, (keys, values) in grads.items():
            spec, rows, state = self.specs[table], self.rows[table], self.state[table]
            sums = {}
            for key, value in zip(keys.tolist(), values, strict=True):
                sums[key] = sums[key] + value if key in sums else value
            for key, g in sums.items():
                row = rows[key] if key in rows else self._first(spec, key)
                if spec.optimizer.name == "sgd":
                    rows[key] = (row - np.float32(spec.optimizer.rate) * g).astype(np.float32)
                    continue
                more = g * g if spec.optimizer.name == "adagrad" else np.mean(g * g)
                state[key] = state.get(key, 0) + more
                rows[key] = row - np.float32(spec.optimizer.rate) * g / (np.sqrt(state[key]) + np.float32(spec.optimizer.eps))

    def stats(self):
        return {}

    def keep(self):
        self.durable = self.last
        self._kept = ({n: dict(r) for n, r in self.rows.items()}, {n: dict(s) for n, s in self.state.items()})

    def crash(self):
        self.rows = {n: dict(r) for n, r in self._kept[0].items()}
        self.state = {n: dict(s) for n, s in self._kept[1].items()}
        self.last = self.durable
