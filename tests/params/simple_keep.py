"""A `Keep` of a few lines: one numpy file a part, all read again from the first. What shards write, without the delta log."""

import os
from pathlib import Path

import numpy as np

from gyral.params.keep import Kept
from gyral.params.records import Records


class Simple:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.num = len(list(self.folder.glob("*.npz")))

    def write(self, part):
        arrays = {"range": np.array([part.first, part.last]), "workers": part.workers, "applied": part.applied}
        arrays["notes"] = np.frombuffer(part.notes, np.uint8)
        for number, (_, changes, versions) in enumerate(part.tables):
            for name in ("buckets", "upsert_starts", "gone_keys", "gone_starts", "counters"):
                arrays[f"{number}.{name}"] = getattr(changes, name)
            for name in Records._fields:
                arrays[f"{number}.{name}"] = getattr(changes.upserts, name)
            arrays[f"{number}.versions"] = versions
        path = self.folder / f"{self.num:08}.npz"
        with open(path.with_suffix(".tmp"), "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path.with_suffix(".tmp"), path)
        self.num += 1

    def notes(self):
        return self._load(self.num - 1)["notes"].tobytes() if self.num else b""

    def recover(self, specs):
        rows = [{} for _ in specs]  # table -> bucket -> key -> (stamp, body)
        counters = [{} for _ in specs]
        versions, applied = {}, {}
        for at in range(self.num):
            part = self._load(at)
            first, last = part["range"].tolist()
            for bucket in range(first, last):
                applied[bucket] = part["workers"], part["applied"][bucket - first]
            for number in range(len(specs)):
                get = {name.split(".")[1]: part[name] for name in part if name.startswith(f"{number}.")}
                for at_bucket, bucket in enumerate(get["buckets"].tolist()):
                    held = rows[number].setdefault(bucket, {})
                    for name, add in (("upsert_starts", True), ("gone_starts", False)):
                        for row in range(get[name][at_bucket], get[name][at_bucket + 1]):
                            if add:
                                held[int(get["keys"][row])] = get["stamps"][row], get["bodies"][row]
                            else:
                                held.pop(int(get["gone_keys"][row]), None)
                    counters[number][bucket] = get["counters"][at_bucket]
                for bucket in range(first, last):
                    versions[number, bucket] = int(get["versions"][bucket - first])
        for number, spec in enumerate(specs):
            for bucket in sorted(applied):
                held = rows[number].get(bucket, {})
                records = Records(
                    np.array(list(held), np.int64),
                    np.array([stamp for stamp, _ in held.values()], np.uint32),
                    np.array([body for _, body in held.values()], np.uint8).reshape(len(held), spec.body_bytes),
                )
                count = counters[number].get(bucket, np.zeros(0, np.uint8))
                yield Kept(spec.name, bucket, records, count, versions[number, bucket], *applied[bucket])

    def _load(self, number):
        with np.load(self.folder / f"{number:08}.npz", allow_pickle=False) as file:
            return dict(file)
