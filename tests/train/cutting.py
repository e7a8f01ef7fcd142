"""A learner of a small log that cuts its journal every few steps, until nothing is left: killed where `GYRAL_FAULT` says."""

import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from gyral.log.sqlite import SqliteLog
from gyral.model.live import journal
from gyral.model.live import tables as t
from gyral.params import client
from gyral.params.shard import Settings
from gyral.train import online
from gyral.train.online import Met, Online
from gyral.train.online_tables import Server
from gyral.train.online_visits import Visits

journal.KEPT, journal.LEAST_BYTES, online.MAX_STEP_EVENTS = 3, 0, 1


def all_kept(batch):
    times = batch.column("event_time").cast(pa.int64()).to_numpy() // 1_000_000
    names = batch.column("object").to_pylist()
    return Met(batch.column("subject").to_pylist(), names, names, times, Counter())


def main(log_folder, folder):
    folder.mkdir(exist_ok=True)
    start = partial(client.open, "local://1", settings=Settings(sync="async", workers=1, cut_s=0.01))
    with SqliteLog(log_folder) as log:
        server = Server(start, list(t.specs(8).values()), folder)
        learner = Online(log, folder, all_kept, Visits(server), step_s=0.001)
        learner.recover()

        def publish():
            if (newest := server.newest()) is not None:
                server.publish(newest)
                learner.cut(newest.step)

        while learner.step() is not None:
            publish()
        names = learner._model.names
        told = {
            "counts": dict(zip(names, server.pull(t.SEEN, np.arange(len(names)))[:, 0].tolist(), strict=True)),
            "steps": learner.journal.last,
            "cut_at": learner.journal.cut_at,
            "seen": learner.seen,
        }
        learner.close()
        server.close()
    print(json.dumps(told))


main(Path(sys.argv[1]), Path(sys.argv[2]))
