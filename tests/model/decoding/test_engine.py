"""What a sequence says does not depend on who is beside it: token for token what `generate` writes alone."""

import random

import numpy as np
import pytest
import torch

from gyral.errors import UsageError
from gyral.model.decoding.engine import Decoding, Limits
from gyral.model.decoding.forward import Forward, Span
from gyral.model.decoding.pages import Pages
from gyral.model.decoding.prefix import Prefixes
from gyral.model.decoding.sampling import Sampling
from gyral.model.decoding.sequence import TokenAsk
from gyral.model.decoding.speculate import Drafter
from gyral.model.generate import generate
from gyral.model.nets.gpt2 import Gpt2
from gyral.model.nets.llama import Llama, Shape
from gyral.model.quant import kernels
from gyral.model.quant.linear import installed, kernels_of
from gyral.model.quant.packing import to_int8
from gyral.model.task import seeded

SHAPE = Shape(61, 32, 2, 4, 2, 64)
LENGTH = 96
GREEDY = Sampling(temperature=0)


def net(seed=1, shape=SHAPE):
    """Far from uniform, so that a wrong position or page is seen."""
    model = seeded(seed, lambda: Llama(shape)).eval()
    generator = torch.Generator().manual_seed(seed)
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.3, generator=generator)
    return model


@pytest.fixture(scope="module")
def model():
    return net()


@pytest.fixture(scope="module")
def forward(model):
    return Forward(model, LENGTH)


def alone(model, prompt, num, length=LENGTH):
    found = []

    def draw(logits):
        found.append(int(logits.argmax()))
        return found[-1]

    generate(model, prompt, length, draw, num)
    return found


def engine(forward, num_pages=64, is_shared=True, limits=None, drafter=None, is_int8=False, **options):
    pages = Pages(num_pages, forward.shape.depth, forward.shape.kv_heads, forward.shape.head_width, is_int8)
    return Decoding(forward, pages, Prefixes(pages) if is_shared else None, "1", limits, drafter, **options)


def run(decoding, asks, joins=lambda: True, most=5_000):
    """All answers, tokens and endings by id; sequences join while others are on their way."""
    waiting, tokens, endings = list(asks), {ask.id: [] for ask in asks}, {}
    for _ in range(most):
        if waiting and joins():
            decoding.submit(waiting.pop(0))
        for told in decoding.step():
            tokens[told.id] += [drawn.token for drawn in told.drawn]
            if told.ended_by:
                assert told.id not in endings
                endings[told.id] = told.ended_by
        if len(endings) == len(asks):
            return tokens, endings
    raise AssertionError(f"after {most} passes {len(endings)} of {len(asks)} have ended")


@pytest.mark.parametrize("seed", range(6))
def test_answers_are_those_of_each_alone(seed, model, forward):
    """Joins at random; hits, whole and partial; few pages, so that some give way; small and large chunks; with guesses."""
    chance = random.Random(seed)
    limits = Limits(chance.choice([2, 5, 64]), chance.choice([16, 50, 512]), chance.choice([3, 16, 64]))
    drafter = Drafter(forward, Pages(30, 2, 2, 8), 61, 3) if seed % 2 else None
    decoding = engine(forward, [7, 12, 40][seed % 3], seed % 4 != 3, limits, drafter)
    head = [chance.randrange(61) for _ in range(60)]
    asks = []
    for number in range(20):
        prompt = head[: chance.randrange(1, 60)] + [chance.randrange(61) for _ in range(chance.randrange(1, 30))]
        asks.append(TokenAsk(number, prompt, chance.randrange(1, 70), GREEDY))
    tokens, endings = run(decoding, asks, lambda: chance.random() < 0.3)
    assert set(endings.values()) == {"length"}
    for ask in asks:
        assert tokens[ask.id] == alone(model, ask.prompt, ask.max_tokens), ask.id
    pages, prefixes = decoding._holding.pages, decoding._holding.prefixes
    assert seed % 3 or decoding.counts.preempted > 0
    assert prefixes is None or decoding.counts.cached > 0
    assert pages.num - pages.num_free == (prefixes.num if prefixes else 0)  # nothing is lost


def test_a_page_that_is_shared_is_not_written_to(model, forward):
    head = list(range(1, 25))  # the second page agrees in 8 tokens
    asks = [TokenAsk(number, [*head, number + 30], 20, GREEDY) for number in range(4)]
    decoding = engine(forward)
    first, _ = run(decoding, asks[:1])
    tokens, _ = run(decoding, asks[1:])
    assert decoding.counts.cached == 3 * 24
    for ask in asks:
        assert (first | tokens)[ask.id] == alone(model, ask.prompt, 20)


def test_one_that_needs_all_pages_can_do_without_the_one_it_would_copy(model, forward):
    """The page that agrees in part is the tree's, and there are exactly as many pages as it needs."""
    head = list(range(10, 34))
    decoding = engine(forward, 3)
    for ask in (TokenAsk(0, [*head, 1, 2, 3], 21, GREEDY), TokenAsk(1, [*head, *range(16)], 8, GREEDY)):
        tokens, _ = run(decoding, [ask], most=100)
        assert tokens[ask.id] == alone(model, ask.prompt, ask.max_tokens)


def test_those_that_come_together_read_their_beginning_once(forward):
    head = [number % 61 for number in range(64)]
    decoding = engine(forward, limits=Limits(tokens=64, tokens_beside=64))
    asks = [TokenAsk(number, [*head, number], 2, GREEDY) for number in range(5)]
    for ask in asks:
        decoding.submit(ask)
    told = []
    while len([each for each in told if each.ended_by]) < 5:
        told += decoding.step()
    assert sorted(each.cached for each in told if each.cached) == [64] * 4
    assert decoding.counts.prompt - decoding.counts.cached == 64 + 5


def test_other_weights_and_other_spaces_find_nothing(model, forward):
    other = net(2)
    pages = Pages(64, 2, 2, 8)
    prefixes = Prefixes(pages)
    engines = [Decoding(forward, pages, prefixes, "1"), Decoding(Forward(other, LENGTH), pages, prefixes, "2")]
    prompt = list(range(40))
    for each, of in ((0, model), (1, other), (0, model)):
        tokens, _ = run(engines[each], [TokenAsk(7, prompt, 12, GREEDY)])
        assert tokens[7] == alone(of, prompt, 12)
    assert [each.counts.cached for each in engines] == [39, 0]  # one token is read for its logits
    run(engines[0], [TokenAsk(8, prompt, 1, GREEDY, space="theirs")])
    assert engines[0].counts.cached == 39


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_neighbours(forward):
    def ask(number, seed):
        return TokenAsk(number, [5, 6, 7], 25, Sampling(1.2, 0.95, seed=seed, presence=0.3, repetition=1.1))

    lonely, _ = run(engine(forward), [ask(0, 4)])
    beside, _ = run(engine(forward, 7), [ask(1, 1), ask(0, 4), ask(2, 2), ask(3, 4)], lambda: random.random() < 0.5)
    assert lonely[0] == beside[0] == beside[3] != beside[1]


def test_int8_keys_and_values_write_nearly_the_same(model, forward):
    prompt = list(range(30))
    logits = {}
    for is_int8 in (False, True):
        pages = Pages(4, 2, 2, 8, is_int8)
        logits[is_int8] = forward(prompt, [Span(0, 30, [0, 2])], range(30), pages)
    error = np.abs(logits[True] - logits[False]).max() / np.abs(logits[False]).max()
    assert 0 < error < 0.05


def test_a_pass_gives_the_logits_of_the_net(model, forward):
    pages = Pages(8, 2, 2, 8)
    tokens = [number * 7 % 61 for number in range(50)]
    found = [forward(tokens[:3], [Span(0, 3, [5])], range(3), pages)]
    found.append(forward(tokens[3:40], [Span(3, 37, [5, 1, 6])], range(37), pages))
    found.append(forward(tokens[40:], [Span(40, 10, [5, 1, 6, 0])], range(10), pages))
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]), torch.arange(50)[None])[0].numpy()
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-4, atol=1e-4)


def test_in_int8_logits_are_the_same_to_the_bit_whoever_is_beside(monkeypatch):
    """A kernel is chosen by its time elsewhere; here each matrix is multiplied in int8, the output and the embedding too."""
    monkeypatch.setattr(kernels, "_known", {})
    monkeypatch.setattr(kernels, "PATIENCE", 1e9)
    plain, quantized = net(4), net(4)
    names = [name for name, param in plain.named_parameters() if param.dim() > 1]
    packed = {name: to_int8(plain.get_parameter(name).detach().numpy()) for name in names}
    installed(quantized, packed, {})
    assert sum(kernels_of(quantized).values()) == 7 * SHAPE.depth + 1 and "int8 by plain" not in kernels_of(quantized)
    forward, pages = Forward(quantized, LENGTH), Pages(64, 2, 2, 8)
    tokens, tables = [5, 6, 7, 8], [[number] for number in range(9)]
    prompts = [[number * 5 % 61, number, 60 - number, 3] for number in range(9)]
    prompts[0] = tokens
    for prompt, table in zip(prompts, tables, strict=True):
        forward(prompt[:3], [Span(0, 3, table)], [], pages)
    alone = forward(tokens[3:], [Span(3, 1, tables[0])], [0], pages)
    last = [prompt[3] for prompt in prompts]
    beside = forward(last, [Span(3, 1, table) for table in tables], range(9), pages)
    np.testing.assert_array_equal(beside[0], alone[0])
    with torch.inference_mode():
        expected = plain(torch.tensor([tokens]), torch.arange(4)[None])[0, -1].numpy()
    assert 0 < np.abs(alone[0] - expected).max() / np.abs(expected).max() < 0.1


def test_matrices_that_are_multiplied_as_one_are_held_once():
    model = net(5)
    with torch.inference_mode():
        before = model(torch.tensor([[1, 2, 3]]), torch.arange(3)[None])
    Forward(model, LENGTH)
    attention = model.blocks["0"].attention
    assert attention.query.weight.untyped_storage().data_ptr() == attention.value.weight.untyped_storage().data_ptr()
    with torch.inference_mode():
        assert torch.equal(model(torch.tensor([[1, 2, 3]]), torch.arange(3)[None]), before)


def test_urgent_ones_are_begun_first(forward):
    decoding = engine(forward, limits=Limits(running=1))
    decoding.submit(TokenAsk(0, [1], 3, GREEDY))
    decoding.step()
    for number, priority, deadline_s in [(1, 2, 50), (2, 1, 90), (3, 1, 60), (4, 0, 99)]:
        decoding.submit(TokenAsk(number, [1, number], 2, GREEDY, priority=priority, deadline_s=deadline_s))
    assert decoding.ahead(TokenAsk(9, [1], 1, priority=1, deadline_s=70))[:3] == (4, 2, 1)
    ends = []
    while decoding.num_running or decoding.num_waiting:
        ends += [told.id for told in decoding.step() if told.ended_by]
    assert ends == [0, 4, 3, 2, 1]


def test_one_that_gave_way_goes_on_before_urgent_ones_that_have_not_begun(forward):
    """Six pages: the second gives its pages to the first, and two urgent ones wait for a place meanwhile."""
    decoding = engine(forward, 6, is_shared=False, limits=Limits(running=2))
    decoding.submit(TokenAsk(0, list(range(40)), 50, GREEDY, priority=2))
    decoding.submit(TokenAsk(1, [1, 2, 3], 60, GREEDY, priority=2))
    decoding.step()
    for number in (2, 3):
        decoding.submit(TokenAsk(number, [number], 30, GREEDY, priority=0))
    ends = []
    while decoding.num_running or decoding.num_waiting:
        ends += [told.id for told in decoding.step() if told.ended_by]
    assert decoding.counts.preempted > 0 and ends[0] == 0 and ends.index(1) < ends.index(3)


def test_experts_are_decoded_too():
    model = net(3, Shape(61, 32, 2, 4, 4, 32, tied=False, experts=4))
    asks = [TokenAsk(number, [number, 2, 3], 20, GREEDY) for number in range(3)]
    tokens, _ = run(engine(Forward(model, LENGTH)), asks)
    assert [tokens[ask.id] for ask in asks] == [alone(model, ask.prompt, 20) for ask in asks]


def test_it_ends_as_asked(model, forward):
    told = alone(model, [1, 2, 3], 12)
    stop = told[6]
    first = told.index(stop) + 1
    for kind, expected in (("stop", "stop"), ("end", "end")):
        tokens, endings = run(engine(forward), [TokenAsk(0, [1, 2, 3], 12, GREEDY, **{kind: frozenset({stop})})])
        assert (tokens[0], endings[0]) == (told[:first], expected)
    assert run(engine(forward), [TokenAsk(0, [1], 0, GREEDY)]) == ({0: []}, {0: "length"})


def test_one_that_is_cancelled_or_late_gives_its_pages_back(forward):
    now = [0.0]
    decoding = engine(forward, is_shared=False, clock=lambda: now[0])
    decoding.submit(TokenAsk(1, [1, 2], 50, GREEDY, deadline_s=5))
    decoding.submit(TokenAsk(2, [1, 3], 50, GREEDY))
    assert {told.id for told in decoding.step()} == {1, 2}
    decoding.cancel(2)
    decoding.cancel(99)
    now[0] = 4.0
    assert [(told.id, told.ended_by) for told in decoding.step()] == [(2, "cancelled"), (1, "")]
    now[0] = 5.1
    assert [(told.id, told.ended_by) for told in decoding.step()] == [(1, "deadline")]
    assert decoding.step() == []
    assert decoding._holding.pages.num_free == 64
    decoding.submit(TokenAsk(2, [1, 3], 50, GREEDY))  # the number is free again
    decoding.step()
    decoding.close()
    assert (decoding.num_running, decoding._holding.pages.num_free) == (0, 64)


def test_a_mask_that_forbids_all_ends_its_own_sequence_only(model, forward):
    def mask(drawn):
        allowed = np.ones(61, bool)
        allowed[:] = len(drawn) < 3
        return allowed

    asks = [TokenAsk(0, [1, 2], 9, Sampling(temperature=0, mask=mask)), TokenAsk(1, [3, 4], 9, GREEDY)]
    tokens, endings = run(engine(forward), asks)
    assert endings == {0: "error", 1: "length"}
    assert tokens[0] == alone(model, [1, 2], 3)
    assert tokens[1] == alone(model, [3, 4], 9)


def test_a_long_prompt_does_not_stall_who_decodes(model, forward):
    decoding = engine(forward, limits=Limits(tokens=512, tokens_beside=8))
    decoding.submit(TokenAsk(0, [1, 2, 3], 40, GREEDY))
    decoding.step()
    decoding.submit(TokenAsk(1, list(range(60)), 5, GREEDY))
    steps = []
    while decoding.num_running or decoding.num_waiting:
        steps.append({told.id: len(told.drawn) for told in decoding.step()})
    assert all(step[0] == 1 for step in steps[:39])
    assert next(number for number, step in enumerate(steps) if 1 in step) == 60 // 8


@pytest.mark.parametrize(
    "ask, message",
    [
        (TokenAsk(0, [], 5), "prompt cannot be read"),
        (TokenAsk(0, [61], 5), "prompt cannot be read"),
        (TokenAsk(0, [-1], 5), "prompt cannot be read"),
        (TokenAsk(0, [1], -5), "max_tokens"),
        (TokenAsk(0, [1], 5, Sampling(bias={61: 1.0})), "a bias"),
        (TokenAsk(0, [1] * 20, 60), "does not fit"),
    ],
)
def test_what_cannot_be_answered_is_refused(forward, ask, message):
    with pytest.raises(UsageError, match=message):
        engine(forward, 4).submit(ask)


def test_an_id_is_used_once_at_a_time(forward):
    decoding = engine(forward)
    decoding.submit(TokenAsk(0, [1], 5))
    with pytest.raises(UsageError, match="under way"):
        decoding.submit(TokenAsk(0, [1], 5))


def test_other_layouts_are_refused():
    with pytest.raises(UsageError, match="Gpt2"):
        Forward(Gpt2(Shape(61, 32, 2, 4, 4, 64), 24), 24)
