"""What the benchmarks of the language engine share: a model of 110 million parameters, its matrices in four kinds, answers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from gyral.model.decoding.engine import Decoding, Limits
from gyral.model.decoding.forward import Pass, Product
from gyral.model.decoding.pages import Pages
from gyral.model.decoding.prefix import Prefixes
from gyral.model.decoding.sampling import Sampling
from gyral.model.decoding.sequence import TokenAsk
from gyral.model.nets.llama import Llama, Shape
from gyral.model.quant.linear import QuantLinear
from gyral.model.quant.packing import to_bf16, to_int4, to_int8
from gyral.model.quant.reordered import reordered
from gyral.model.task import seeded

SHAPE = Shape(32_000, 768, 12, 12, 12, 2_048, tied=False)
LENGTH = 4_096


def one_core() -> int:
    """This process, and what it starts, has one thread of torch on one core from here on; the number of the core."""
    torch.set_num_threads(1)
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def big() -> Llama:
    """Random weights, seed 0."""
    net = seeded(0, lambda: Llama(SHAPE)).eval()
    if not isinstance(net, Llama):
        raise SystemExit("no Llama")
    return net


def bf16(weight: Tensor) -> Product:
    """As served: products in bfloat16, the stream in float32."""
    return QuantLinear(to_bf16(weight.detach().float().numpy()))


def int8(weight: Tensor) -> Product:
    """As served: a scale for each row of weights and each row of activations."""
    return QuantLinear(to_int8(weight.detach().float().numpy()))


def int4(weight: Tensor) -> Product:
    """As served: groups of 32 columns; the output matrix in int8."""
    if len(weight) == SHAPE.vocab:
        return int8(weight)
    return QuantLinear(to_int4(weight.detach().float().numpy()))


KINDS = {"fp32": reordered, "bf16": bf16, "int8": int8, "int4": int4}


def engine(
    forward: Pass, num_pages: int, is_shared: bool = False, limits: Limits | None = None, is_int8: bool = False
) -> Decoding:
    """An engine with pages of its own."""
    shape = forward.shape
    pages = Pages(num_pages, shape.depth, shape.kv_heads, shape.head_width, is_int8, forward.page)
    return Decoding(forward, pages, Prefixes(pages) if is_shared else None, "1", limits)


def ask(number: int, prompt: Sequence[int], num: int) -> TokenAsk:
    """The likeliest tokens."""
    return TokenAsk(number, prompt, num, Sampling(temperature=0))


def decoded(forward: Pass, prompts: Sequence[Sequence[int]], num: int, is_int8: bool = False) -> tuple[float, list[list[int]]]:
    """CPU seconds of a step from the second token on, and the tokens, `num` + 1 of each; keys and values in int8 if so."""
    decoding = engine(forward, len(prompts) * 8, limits=Limits(tokens=8_192), is_int8=is_int8)
    for number, prompt in enumerate(prompts):
        decoding.submit(ask(number, prompt, num + 1))
    found = {told.id: [drawn.token for drawn in told.drawn] for told in decoding.step()}
    start, steps = cpu_s(), 0
    while decoding.num_running:
        steps += 1
        for told in decoding.step():
            found[told.id] += [drawn.token for drawn in told.drawn]
    return (cpu_s() - start) / steps, [found[number] for number in range(len(prompts))]


def finish(decoding: Decoding) -> dict[int, list[int]]:
    """Run until all have ended; the tokens of each."""
    found: dict[int, list[int]] = {}
    while decoding.num_running or decoding.num_waiting:
        for told in decoding.step():
            found.setdefault(told.id, []).extend(drawn.token for drawn in told.drawn)
    return found


def cpu_s() -> float:
    """Of this process so far."""
    return time.process_time()
