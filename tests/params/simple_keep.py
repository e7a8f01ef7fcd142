"""A `Keep` of a few lines: one numpy file a part, all read again from the first. What shards write, without the delta log."""

import os
from pathlib import Path

import numpy as np

from gyral.params.keep import Kept
from gyral.params.records import Records


class Simple:
    def __init__(self, folder, specs=()):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.num = len(list(self.folder.glob("*.npz")))

    def write(self, part):
        arrays = {name: getattr(part, name) for name in ("workers", "applied", "versions")}
        arrays |= {name: getattr(part.changes, name) for name in part.changes._fields if name != "upserts"}
        arrays |= {name: getattr(part.changes.upserts, name) for name in Records._fields}
        arrays |= {"range": np.array([part.first, part.last]), "table": np.array(part.table)}
        arrays["notes"] = np.frombuffer(part.notes, np.uint8)
        path = self.folder / f"{self.num:08}.npz"
        with open(path.with_suffix(".tmp"), "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path.with_suffix(".tmp"), path)
        self.num += 1

    def notes(self):
        return self._load(self.num - 1)["notes"].tobytes() if self.num else b""

    def recover(self, spec):
        rows, counters, versions, applied = {}, {}, {}, {}
        for part in (self._load(at) for at in range(self.num)):
            if part["table"] != spec.name:
                continue
            first, last = part["range"].tolist()
            for bucket in range(first, last):
                applied[bucket] = part["workers"], part["applied"][bucket - first]
            for at, bucket in enumerate(part["buckets"].tolist()):
                version = int(part["versions"][at])
                held = rows.setdefault(bucket, {})
                if version != versions.get(bucket, 0) + 1:  # from another shard, whole
                    held.clear()
                versions[bucket], counters[bucket] = version, part["counters"][at]
                for row in range(part["upsert_starts"][at], part["upsert_starts"][at + 1]):
                    held[int(part["keys"][row])] = part["stamps"][row], part["bodies"][row]
                for row in range(part["gone_starts"][at], part["gone_starts"][at + 1]):
                    held.pop(int(part["gone_keys"][row]), None)
        for bucket in sorted(applied):
            held = rows.get(bucket, {})
            records = Records(
                np.array(list(held), np.int64),
                np.array([stamp for stamp, _ in held.values()], np.uint32),
                np.array([body for _, body in held.values()], np.uint8).reshape(len(held), spec.body_bytes),
            )
            count = counters.get(bucket, np.zeros(0, np.uint8))
            yield Kept(bucket, records, count, versions.get(bucket, 0), *applied[bucket])

    def _load(self, number):
        with np.load(self.folder / f"{number:08}.npz", allow_pickle=False) as file:
            return dict(file)
