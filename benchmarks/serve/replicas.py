"""What copies of a language model cost behind the router, and what is left of one copy's cache.

Model: Llama over bytes, 2 layers of 32, random weights, so that everything around it shows; copies are worker processes of one
thread behind `gyral.serve.openai.copies`, asked on one loop without HTTP. CPU is that of the server's process and of the pool's
workers (nanoseconds of the scheduler), a request: a chat of some 440 letters of which 400 are one of 24 system prompts, 8
tokens more, whole or as a stream; 8 in flight a copy, pools in turn, medians of rounds.

Cache: tokens of prompts that were found, of 288 such chats in random order, 8 in flight whatever the number of copies; new
system prompts each time, so nothing is left of the run before. Keys are those that the server takes (`wire.beginning`, bounded
by load); against chance and taking turns. Once with memory for everything in each copy, once for half of the system prompts.

Predicted before the first run: 1.03x and 1.08x of the CPU at two and four copies. Keys keep .97 and .94 of one copy's hits,
chance and turns .93 and .80; with memory for half, keys find 1.9x and 2.0x of one copy's, chance and turns 1.0x and .95x.
Caveat: the server's process and four workers share two cores; read CPU.

    .venv/bin/python benchmarks/serve/replicas.py (about two minutes)
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hop import cpu_s
from measure import write

from gyral.config.sections import Decode, Serve
from gyral.model import card as cards
from gyral.model.card import Card, Weights
from gyral.model.decoding.pages import Pages
from gyral.model.nets.llama import Shape
from gyral.model.task import seeded
from gyral.model.tasks.next_token import build_net
from gyral.serve.openai.copies import Copies
from gyral.serve.openai.opening import copied
from gyral.serve.openai.runner import Wanted
from gyral.serve.openai.wire import CHAT, beginning, decode

SHAPE, LENGTH = Shape(257, 32, 2, 4, 2, 64), 1_024
COPIES = (1, 2, 4)
SYSTEMS, SYSTEM, SAID, TURNS = 24, 400, 40, 12
REQUESTS, ROUNDS, IN_FLIGHT = 100, 3, 8
Body = tuple[bytes, bytes]
"""A request, and its key."""


def publish(root: Path) -> None:
    """A model over bytes in a project."""
    model = seeded(0, lambda: build_net("llama", SHAPE, LENGTH))
    arrays = {key: value.numpy() for key, value in model.state_dict().items() if key != "logits.weight"}
    settings = {"shape": asdict(SHAPE), "length": LENGTH, "layout": "llama"}
    cards.publish(root, "tiny", Weights(arrays, settings), None, Card(family="lm"))


def chats(rng: random.Random, num: int, systems: int = SYSTEMS) -> list[Body]:
    """As many chats of each system prompt as of the others, in random order."""
    heads = ["".join(rng.choices("abcdefgh ", k=SYSTEM)) for _ in range(systems)]
    found = []
    for number in range(num):
        said = [("system", heads[number % systems]), ("user", "".join(rng.choices("ijklm ", k=SAID)))]
        messages = [{"role": role, "content": text} for role, text in said]
        body = json.dumps({"model": "tiny", "messages": messages, "max_tokens": 8, "logit_bias": {"256": -100}}).encode()
        found.append((body, beginning(decode(CHAT, body))))
    rng.shuffle(found)
    return found


async def ask(copies: Copies, bodies: list[Body], at_once: int, is_stream: bool = False) -> None:
    """Have all answered, some at once."""
    waiting = iter(bodies)

    async def one() -> None:
        for body, key in waiting:
            feed = copies.ask(Wanted(copies.default, "default", CHAT, body, 60.0, is_stream, False, key))
            while parts := await feed.next():
                if parts[-1].status != 200:
                    raise SystemExit(parts[-1].body.decode())
                if parts[-1].is_last:
                    break

    await asyncio.gather(*(one() for _ in range(at_once)))


def processes(copies: Copies) -> list[int]:
    """Of the workers."""
    running = [each.carrier.running.process for each in copies._pool._kept if each.carrier is not None]
    return [each.pid for each in running]  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def pools(root: Path, decode_: Decode) -> Any:
    """Copies of each number."""
    async with contextlib.AsyncExitStack() as stack:
        found = {}
        for workers in COPIES:
            opening = copied(root, "tiny@1", Serve(workers=workers), decode_, lambda _: None)
            found[workers] = await stack.enter_async_context(opening)
        yield found


async def costs(found: dict[int, Copies]) -> dict[str, Any]:
    """CPU µs a request, of the server and of the workers, and the ratios of their sum to that of one copy."""
    spent: dict[str, dict[str, list[float]]] = {}
    rng = random.Random(0)
    for number in range(ROUNDS + 1):
        for is_stream in (False, True):
            for workers, copies in found.items():
                groups = [os.getpid()], processes(copies)
                bodies, before = chats(rng, REQUESTS * workers), [cpu_s(each) for each in groups]
                await ask(copies, bodies, IN_FLIGHT * workers, is_stream)
                spent_s = [cpu_s(each) - was for each, was in zip(groups, before, strict=True)]
                used = [each / len(bodies) * 1e6 for each in spent_s]
                if number:
                    row = spent.setdefault(f"{'stream' if is_stream else 'whole'}, {workers}", {})
                    for name, value in (("server", used[0]), ("workers", used[1]), ("all", sum(used))):
                        row.setdefault(name, []).append(round(value, 1))
    ratios = {}
    for kind in ("whole", "stream"):
        for workers in COPIES[1:]:
            pairs = zip(spent[f"{kind}, {workers}"]["all"], spent[f"{kind}, 1"]["all"], strict=True)
            ratios[f"{kind}, {workers} / 1"] = round(statistics.median(one / other for one, other in pairs), 3)
    medians = {name: {key: statistics.median(each) for key, each in row.items()} for name, row in spent.items()}
    return {"cpu_us": medians, "cpu_ratios": ratios, "all": spent}


class Chooser:
    """In the place of the pool's own."""

    def __init__(self, copies: Copies, choose: Callable[[int], int]) -> None:
        self._copies, self._choose = copies, choose

    def choose(self, flight: Any) -> Any:
        ready = self._copies._pool._ready()
        return ready[self._choose(len(ready))]


async def hits(found: dict[int, Copies]) -> dict[str, float]:
    """Tokens found by each policy and number of copies, over those that one copy finds; and the share that it finds."""
    turn, rng = itertools.count(), random.Random(1)
    policies: dict[str, Callable[[int], int] | None] = {
        "keys": None, "chance": rng.randrange, "turns": lambda num: next(turn) % num,
    }  # fmt: skip
    shares: dict[str, float] = {}
    for workers, copies in found.items():
        for name, choose in policies.items():
            if workers == 1 and choose is not None:
                continue
            own, before = copies._pool._chooser, read(copies)
            if choose is not None:
                copies._pool._chooser = Chooser(copies, choose)  # type: ignore[assignment]
            await ask(copies, chats(random.Random(f"{workers} {name}"), SYSTEMS * TURNS), IN_FLIGHT)
            copies._pool._chooser = own
            cached, prompt = (now - then for now, then in zip(read(copies), before, strict=True))
            shares[f"{name}, {workers}"] = cached / prompt
    one = shares.pop("keys, 1")
    return {"found by one copy": round(one, 3)} | {name: round(share / one, 3) for name, share in shares.items()}


def read(copies: Copies) -> tuple[int, int]:
    """Tokens of prompts that were found, and all."""
    workers = copies.state()["workers"]
    return sum(each["cached_tokens"] for each in workers), sum(each["prompt_tokens"] for each in workers)


async def run(root: Path) -> dict[str, Any]:
    async with pools(root, Decode()) as found:
        result = await costs(found)
        result["hits_kept"] = await hits(found)
    page = Pages.size_bytes(SHAPE.depth, SHAPE.kv_heads, SHAPE.head_width, False)
    half = SYSTEMS // 2 * (SYSTEM // 16) + IN_FLIGHT * 8
    async with pools(root, Decode(kv_bytes=half * page)) as found:
        result["hits_kept_with_memory_for_half"] = await hits(found)
    return result


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        publish(Path(folder))
        write("serve_replicas", asyncio.run(run(Path(folder))))


if __name__ == "__main__":
    main()
