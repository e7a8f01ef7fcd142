"""A net that knows no pages writes what `generate` writes, for several in turn."""

import numpy as np
import pytest
import torch

from gyral.errors import UsageError
from gyral.model.decoding.alone import Alone
from gyral.model.decoding.sampling import Sampling
from gyral.model.decoding.sequence import TokenAsk
from gyral.model.generate import generate
from gyral.model.nets.gpt2 import Gpt2
from gyral.model.nets.llama import Shape
from gyral.model.task import seeded

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def model():
    net = seeded(1, lambda: Gpt2(Shape(61, 32, 2, 4, 4, 64), 48)).eval()
    generator = torch.Generator().manual_seed(1)
    for param in net.parameters():
        torch.nn.init.normal_(param, std=0.3, generator=generator)
    return net


def written(model, prompt, num):
    found = []

    def draw(logits):
        found.append(int(logits.argmax()))
        return found[-1]

    generate(model, prompt, 48, draw, num)
    return found


def run(alone, asks):
    tokens, endings = {ask.id: [] for ask in asks}, {}
    for ask in asks:
        alone.submit(ask)
    while alone.num_running or alone.num_waiting or len(endings) < len(asks):
        for told in alone.step():
            tokens[told.id] += [drawn.token for drawn in told.drawn]
            if told.ended_by:
                endings[told.id] = told.ended_by
    return tokens, endings


def test_each_writes_what_it_writes_alone(model):
    asks = [TokenAsk(number, [number, 2, 3], 20 + 15 * number, GREEDY) for number in range(4)]  # beyond the window, too
    alone = Alone(model, 48, 61, running=3)
    tokens, endings = run(alone, asks)
    assert tokens == {ask.id: written(model, ask.prompt, ask.max_tokens) for ask in asks}
    assert set(endings.values()) == {"length"} and alone.counts.drawn == sum(ask.max_tokens for ask in asks)


def test_it_ends_as_asked(model):
    told = written(model, [1, 2, 3], 12)
    end = frozenset({told[5]})
    num = told.index(told[5]) + 1
    forbidden = Sampling(temperature=0, mask=lambda drawn: np.full(61, len(drawn) < 3))
    asks = [TokenAsk(0, [1, 2, 3], 12, GREEDY, end=end), TokenAsk(1, [1, 2, 3], 12, forbidden), TokenAsk(2, [1], 0)]
    tokens, endings = run(Alone(model, 48, 61), asks)
    assert endings == {0: "end", 1: "error", 2: "length"}
    assert tokens == {0: told[:num], 1: told[:3], 2: []}


def test_cancelled_late_and_wrong_ones(model):
    now = [0.0]
    alone = Alone(model, 48, 61, running=1, clock=lambda: now[0])
    alone.submit(TokenAsk(1, [1], 30, GREEDY))
    alone.submit(TokenAsk(2, [1], 30, GREEDY, deadline_s=1))
    alone.submit(TokenAsk(3, [1], 1, GREEDY, priority=0))
    assert alone.ahead(TokenAsk(4, [1], 1)).waiting == 3
    with pytest.raises(UsageError, match="under way"):
        alone.submit(TokenAsk(1, [1], 5))
    with pytest.raises(UsageError, match="prompt cannot be read"):
        alone.submit(TokenAsk(5, [61], 5))
    assert [(told.id, told.ended_by) for told in alone.step()] == [(3, "length")]
    alone.cancel(1)
    now[0] = 2.0
    assert {(told.id, told.ended_by) for told in alone.step()} == {(1, "cancelled"), (2, "deadline")}
    assert (alone.num_running, alone.num_waiting, alone.step()) == (0, 0, [])
