"""Weak scaling on one machine: 1, 2 and 4 workers, each with the same work, in CPU seconds a unit of it.

With fewer cores than workers the clock says nothing, so what is told is the CPU time of all processes a unit of work, which is
flat where workers cost each other nothing. Each width runs a small and a large job and the difference counts, so starts and
imports do not. Rows: `curate` (documents, in processes), `train` (rows of a batch in an all-reduce), `params` (rows of a batch,
pushed to as many shards as workers, `async`), `serve` (answers of a recommender by so many processes). Nothing here crosses a
network: that nodes give the same bytes and outlive each other is `tests/engine/test_nodes.py`.
Command: .venv/bin/python benchmarks/engine/weak.py (about eight minutes)
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import GYRAL, timed, write

WIDTHS, ROUNDS = (1, 2, 4), 2
DOCUMENT_BYTES, DOCUMENTS, PARTS = 16_384, 1_040, (1, 3)
STEPS, ROWS = (40, 240), 4
ANSWERS = 1_500
LM = {"lm.depth": 2, "lm.width": 64, "lm.heads": 4, "lm.length": 64}
STAGES = 'curate.stages=["extract", "repair", "digest"]'
REQUEST = b'{"subject": "c3", "k": 5}'


def pages(folder: Path, num_files: int, num: int) -> None:
    """Files of so many documents each, none the same."""
    words = Path(__file__).read_text().replace('"', "").replace("\\", "").split()
    text = " ".join(random.Random(0).choices(words, k=num * 4_096))
    folder.mkdir()
    for file in range(num_files):
        with open(folder / f"{file}.jsonl", "w") as out:
            for number in range(num):
                begin = (number * 17_389 + file * 7_919) % (len(text) - DOCUMENT_BYTES)
                out.write(f'{{"text": "Page {file} {number}. {text[begin : begin + DOCUMENT_BYTES]}"}}\n')


def curate(base: Path, width: int, parts: int) -> float:
    """CPU seconds for so many parts a worker: a file of 17 MB is one, and one worker's at a time."""
    with tempfile.TemporaryDirectory(dir=base) as root:
        (Path(root) / "pages").mkdir()
        for file in range(width * parts):
            os.link(base / "many" / f"{file}.jsonl", Path(root) / "pages" / f"{file}.jsonl")
        words = ["curate", "pages", "--source", "pages", "--on", f"local://processes={width}"]
        return timed([*GYRAL, *words, "--set", STAGES], cwd=root)["cpu_s"]


def train(root: Path, width: int, steps: int, more: tuple[str, ...] = ()) -> float:
    """CPU seconds for `steps` steps with `ROWS` rows of a batch a worker."""
    given = {**LM, "train.steps": steps, "train.batch": ROWS * width, "train.evaluate_every": 0}
    sets = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    # Also one worker is a process of its own, as the others are.
    words = ["train", "pages", "--family", "lm", "--parallel", f"data={width}", *sets, *more]
    return timed([*GYRAL, *words], cwd=root)["cpu_s"]


def params(root: Path, width: int, steps: int) -> float:
    """The same by a parameter server with a shard a worker."""
    return train(root, width, steps, ("--sync", "async", "--set", f"train.server.at=proc://{width}"))


def serve(root: Path, width: int) -> float:
    """CPU milliseconds of an answer, of all processes of the server, with as many clients as workers."""
    words = ["serve", "shop", "--port", "8397", "--workers", str(width)]
    server = subprocess.Popen([*GYRAL, *words], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                ask(20)
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        before = tree(server.pid)
        clients = [threading.Thread(target=ask, args=[ANSWERS]) for _ in range(width)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        return 1e3 * (tree(server.pid) - before) / (ANSWERS * width)
    finally:
        server.terminate()
        server.wait(30)


def ask(times: int) -> None:
    for _ in range(times):
        with urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8397/v1/recommend", data=REQUEST)) as answer:
            answer.read()


def tree(pid: int) -> float:
    """CPU seconds of a process and all below it that live."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK") + sum(tree(int(each)) for each in below)


def main() -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "GYRAL_NO_PROGRESS": "1"}
    found: dict[str, dict[int, list[float]]] = {}

    def keep(verb: str, width: int, value: float) -> None:
        found.setdefault(verb, {}).setdefault(width, []).append(round(value, 4))

    with tempfile.TemporaryDirectory() as named:
        base = Path(named)
        rows = [f"c{row % 17},p{(row * row + row // 3) % 11},{1_700_000_000 + 1000 * row}" for row in range(600)]
        (base / "shop.csv").write_text("\n".join(["subject,object,event_time", *rows]))
        timed([*GYRAL, "train", "shop.csv", "--budget", "1s"], cwd=base)
        pages(base / "few", 1, 40)
        pages(base / "many", max(WIDTHS) * max(PARTS), DOCUMENTS)
        timed([*GYRAL, "curate", "pages", "--source", "few", "--set", STAGES], cwd=base)
        for _ in range(ROUNDS):
            for width in WIDTHS:
                cost = [curate(base, width, parts) for parts in PARTS]
                keep("curate_ms_a_document", width, 1e3 * (cost[1] - cost[0]) / (width * DOCUMENTS * (PARTS[1] - PARTS[0])))
                for verb, run in (("train", train), ("params", params)):
                    cost = [run(base, width, steps) for steps in STEPS]
                    keep(f"{verb}_ms_a_row", width, 1e3 * (cost[1] - cost[0]) / (width * ROWS * (STEPS[1] - STEPS[0])))
                keep("serve_ms_an_answer", width, serve(base, width))
    result = {verb: {str(width): statistics.median(all_) for width, all_ in every.items()} for verb, every in found.items()}
    write("engine_weak", {"rounds": ROUNDS, "cpu": result, "raw": found})


if __name__ == "__main__":
    main()
