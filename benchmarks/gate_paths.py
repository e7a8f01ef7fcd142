"""Hot paths that the gate measures, each made ready by a function, and the work that a machine's speed is told by.

`TIMED` are mostly compiled loops: their CPU time is divided by that of `reference`. `COUNTED` are plain Python: the bytecodes
that gyral's own modules run, the same in every run of one Python. A call of a timed path takes some 5 to 60 ms.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

Work = Callable[[], Any]


def reference() -> Work:
    """A sort, a product of matrices and a loop of Python over JSON: what the paths are made of, and nothing of gyral."""
    random = np.random.default_rng(0)
    keys, square = random.integers(0, 1 << 62, 30_000), random.normal(size=(160, 160)).astype(np.float32)
    text = json.dumps([{"id": number, "name": str(number)} for number in range(300)])

    def work() -> float:
        total = float(np.sort(keys)[7]) + float((square @ square @ square)[0, 0])
        for _ in range(4):
            total += sum(row["id"] for row in json.loads(text) if row["name"] != "7")
        return total

    return work


def events() -> list[bytes]:
    """20 bodies of 200 events."""
    row = {"event_time": 1_700_000_000_000, "kind": "click", "subject": "somebody", "object": "p17", "props": {"n": 1}}
    return [json.dumps([{**row, "event_id": f"{body}-{at}"} for at in range(200)]).encode() for body in range(20)]


def texts() -> pa.Array:
    """60 pages of some 600 words, seeded."""
    random = np.random.default_rng(0)
    words = np.array(["".join(random.choice(list("abcdefghijklmnop"), random.integers(2, 9))) for _ in range(3_000)])
    pages = [random.zipf(1.3, 600) % len(words) for _ in range(60)]
    return pa.array([" ".join(words[page]).replace(" ab", ". The ab") + ".\n" for page in pages])


def decode() -> Work:
    from gyral.event import scan

    scan.LOADED.load()
    return partial(scan.read, events(), 7)


def known_ids() -> Work:
    from gyral.ingest.dedup import Runs, hashed

    runs = Runs()
    for part in range(4):
        runs.add(hashed(pa.array([f"{part}-{at}" for at in range(20_000)])))
    asked = pa.array([f"{at % 8}-{at}" for at in range(20_000)])
    return lambda: runs.has(hashed(asked))


def minhash() -> Work:
    from gyral.curate.near.minhash import MinHash

    stage, pages = MinHash(), pa.chunked_array([texts()] * 8).combine_chunks()
    return lambda: stage.sign(pages)


def rules() -> Work:
    from gyral.curate.text.statistics import Statistics

    stage, batch = Statistics(), pa.record_batch({"text": texts()})
    return lambda: stage(batch)


def asof() -> Work:
    from gyral.lake.asof import asof_places

    random = np.random.default_rng(0)

    def table(num: int, *times: str) -> pa.Table:
        moments = {name: pa.array(random.integers(0, 1 << 40, num)).cast(pa.timestamp("us")) for name in times}
        return pa.table({"subject": pa.array([f"s{each}" for each in random.integers(0, 3_000, num)]), **moments})

    return partial(asof_places, table(15_000, "event_time"), table(30_000, "event_time", "ingest_time"))


def parameters() -> Work:
    from gyral.params.spec import Optimizer, TableSpec
    from gyral.params.table import Table

    random = np.random.default_rng(0)
    table = Table(TableSpec("items", 32, optimizer=Optimizer(name="rowwise_adagrad", rate=0.1), scale=0.05))
    keys, gradients = random.integers(0, 40_000, 8_192), random.normal(size=(8_192, 32)).astype(np.float32)

    def work() -> None:
        for _ in range(4):
            table.pull(keys)
            table.push(keys, gradients, 1)

    return work


def top_k() -> Work:
    from gyral.model.retrieving.exact import Int8

    random = np.random.default_rng(0)
    searcher, queries = Int8(random.normal(size=(20_000, 64)).astype(np.float32)), random.normal(size=(16, 64))
    return partial(searcher.search, queries.astype(np.float32), 10)


def law() -> Work:
    from gyral.law.fit import fit, rows_of
    from gyral.law.forms import find

    random, form = np.random.default_rng(0), find("chinchilla")
    size, data = 10 ** random.uniform(6, 9, 60), 10 ** random.uniform(8, 11, 60)
    loss = (1.7 + 400 / size**0.34 + 400 / data**0.28) * np.exp(random.normal(size=60) * 0.003)
    return partial(fit, form, rows_of(form, {"N": size, "D": data}, loss))


def queueing() -> Work:
    from gyral.plan.simulate import Traffic, first_come
    from gyral.plan.spread import exponential

    return partial(first_come, Traffic.steady(7.2, 40_000.0), exponential(1.0), 8)


def product(kind: str) -> Work:
    import torch

    from gyral.model.quant import packing
    from gyral.model.quant.kernels import KERNELS

    torch.set_num_threads(1)
    matrix = np.random.default_rng(0).standard_normal((1_536, 576)).astype(np.float32)
    kernel = next(each for each in KERNELS if each.kind == kind)
    prepared = kernel.prepare(getattr(packing, f"to_{kind}")(matrix))
    x = torch.ones(8, 576)

    def work() -> None:
        with torch.inference_mode():
            for _ in range(20):
                kernel.multiply(x, *prepared)

    return work


TIMED: dict[str, Callable[[], Work]] = {
    "events decoded": decode,
    "known ids": known_ids,
    "MinHash": minhash,
    "rules of text": rules,
    "as-of join": asof,
    "pull and push": parameters,
    "top-k of vectors": top_k,
    "law fitted": law,
    "queues simulated": queueing,
    "product in int8": partial(product, "int8"),
    "product in int4": partial(product, "int4"),
}


def head() -> Work:
    from gyral.serve.http1.head import judge

    headers = [
        (b"host", b"x"),
        (b"content-length", b"120"),
        (b"content-type", b"application/json"),
        (b"connection", b"keep-alive"),
    ]
    return lambda: judge(b"POST", b"/v1/recommend?k=10", "1.1", headers)


def checked() -> Work:
    from gyral.event.wire import check_json

    return partial(check_json, events()[0])


def payload() -> Work:
    from gyral.event import codec, scan

    rows = scan.read(events(), 7)[0]
    return lambda: codec.decode_payload(codec.encode_payload(rows))


def queue() -> Work:
    from gyral.serve.scheduling.batch import Queue, Waiting
    from gyral.serve.scheduling.cost import Cost, Curve

    def work() -> None:
        waiting, cost = Queue(8), Cost(Curve(0.004, 0.0005), 8)
        for at in range(40):
            waiting.push(Waiting(at, deadline=100.0 + at % 7, key=str(at % 3)), at * 1e-3)
        while waiting.take(0.05, cost):
            pass

    return work


def settings() -> Work:
    """Of a section that is always the same: gyral's own grow by settings, and that makes nothing slower."""
    from typing import Annotated

    import msgspec

    from gyral.config import describe
    from gyral.config.sections import Section

    means = msgspec.Meta(ge=0, description="what it does; 0: nothing")
    of = [(f"setting_{number}", Annotated[int, means], number) for number in range(40)]
    section = msgspec.defstruct("Forty", of, bases=(Section,), frozen=True)
    return lambda: describe(section())


COUNTED: dict[str, Callable[[], Work]] = {
    "head of a request": head,
    "events checked": checked,
    "payload of the log": payload,
    "batches of requests": queue,
    "forty settings described": settings,
}
