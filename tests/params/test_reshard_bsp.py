"""Under `bsp` the result is the same to the bit whether buckets move meanwhile or not."""

import threading

import numpy as np

from gyral.errors import GyralError
from gyral.params import client
from gyral.params.shard import Settings
from gyral.params.spec import Optimizer, TableSpec

from . import plain


def test_bsp_is_the_same_to_the_bit_while_buckets_move(tmp_path):
    spec, num, clocks = TableSpec("learned", 4, Optimizer(name="adam", rate=0.1)), 2, 60
    rng = np.random.default_rng(4)
    keys = rng.integers(0, 2000, (clocks, num, 150))
    grads = rng.normal(size=(clocks, num, 150, 4)).astype(np.float32)
    oracle = plain.Plain(spec)
    for clock in range(clocks):
        oracle.push(keys[clock].reshape(-1), grads[clock].reshape(-1, 4))
    settings, errors = Settings(sync="bsp", workers=num, cut_s=0.05, lease_s=60.0), []

    def work(joined):
        try:
            for clock in range(clocks):
                joined.table("learned").pull(keys[clock, joined.worker])
                joined.table("learned").push(keys[clock, joined.worker], grads[clock, joined.worker])
                joined.tick()
        except GyralError as error:
            errors.append(error)

    with (
        client.open("local://2", [spec], folder=tmp_path, settings=settings, timeout_s=60.0) as first,
        first.another(1) as other,
    ):
        threads = [threading.Thread(target=work, args=[each]) for each in (first, other)]
        for thread in threads:
            thread.start()
        parcels, num_shards = 0, 2
        while any(thread.is_alive() for thread in threads):
            num_shards = 5 - num_shards
            parcels += first.reshard(num_shards).parcels
        assert errors == [] and parcels >= 6
        rows, _ = first.table("learned").pull(np.arange(2000))
        assert np.array_equal(rows, oracle.pull(np.arange(2000))[0])
