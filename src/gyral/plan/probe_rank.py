"""One of the two processes that `gyral.plan.probe` times sums with: python -m gyral.plan.probe_rank STORE RANK BYTES…

Each size is summed for a while by both; the first rank says when to stop, and prints [[bytes, least seconds], …].
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta

TRIES, TRY_S = 20, 0.4


def main() -> None:
    """Sum."""
    import torch
    import torch.distributed as dist

    store, rank, *sizes = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60))
    found = []
    for size in sizes:
        values, on = torch.ones(size // 4), torch.ones(1)
        dist.all_reduce(values)
        least, end = float("inf"), time.perf_counter() + TRY_S
        for number in range(1 << 20):
            begun = time.perf_counter()
            dist.all_reduce(values)
            least = min(least, time.perf_counter() - begun)
            values.fill_(1.0)
            if number % TRIES == TRIES - 1:
                on.fill_(float(time.perf_counter() < end))
                dist.broadcast(on, 0)
                if not on.item():
                    break
        found.append((size, least))
    dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
