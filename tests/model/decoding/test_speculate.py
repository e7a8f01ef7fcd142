"""Guessing changes nothing but the time: the same tokens at temperature 0, the same distribution above it."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gyral.errors import UsageError
from gyral.model.decoding.engine import Decoding
from gyral.model.decoding.forward import Forward
from gyral.model.decoding.pages import Pages
from gyral.model.decoding.sampling import Sampler, Sampling
from gyral.model.decoding.sequence import TokenAsk
from gyral.model.decoding.speculate import Drafter, Guesses, checked
from gyral.model.generate import generate
from gyral.model.nets.llama import Llama, Shape
from gyral.model.task import seeded

LARGE, SMALL = Shape(19, 32, 2, 4, 2, 64), Shape(19, 16, 1, 2, 1, 32)


def net(shape, seed, std=0.3):
    model = seeded(seed, lambda: Llama(shape)).eval()
    generator = torch.Generator().manual_seed(seed)
    for param in model.parameters():
        torch.nn.init.normal_(param, std=std, generator=generator)
    return model


def engine(model, small, num=3, length=64, pages_of_small=40):
    shape = small.shape
    drafter = Drafter(Forward(small, length), Pages(pages_of_small, shape.depth, shape.kv_heads, shape.head_width), 19, num)
    return Decoding(Forward(model, length), Pages(40, 2, 2, 8), None, "1", drafter=drafter)


def answers(decoding, asks):
    found = {ask.id: [] for ask in asks}
    for ask in asks:
        decoding.submit(ask)
    while decoding.num_running or decoding.num_waiting:
        for told in decoding.step():
            found[told.id] += [drawn.token for drawn in told.drawn]
    return found


def test_the_likeliest_stay_the_same_whatever_is_guessed():
    model = net(LARGE, 1)
    asks = [TokenAsk(number, [number, 3, 4] * (1 + 4 * number), 40, Sampling(temperature=0)) for number in range(4)]
    for small, num, few in ((model, 4, 40), (net(SMALL, 2), 3, 40), (net(SMALL, 3), 1, 2)):
        decoding = engine(model, small, num, pages_of_small=few)
        found = answers(decoding, asks)
        for ask in asks:
            expected = []

            def draw(logits, into=expected):
                into.append(int(logits.argmax()))
                return into[-1]

            generate(model, ask.prompt, 64, draw, 40)
            assert found[ask.id] == expected
        counts = decoding.counts
        assert counts.guessed > 0
        if small is model:
            assert counts.accepted == counts.guessed
            assert counts.passes < 40
        else:
            assert counts.accepted < counts.guessed
        assert not decoding._drafter._kept
        assert decoding._drafter._pages.num_free == few


def test_a_guess_changes_no_probability():
    """Theorem 1 on one place: over many draws from any guesser, tokens come as the large model's distribution says."""
    logits = np.log(np.array([[0.45, 0.25, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]], np.float32))
    guesser = np.array([0.05, 0.6, 0.05, 0.3])
    how = Sampling(temperature=1.0, seed=8)
    growing = SimpleNamespace(sampler=Sampler(how), drawn=[])
    random, firsts, seconds = np.random.default_rng(1), Counter(), Counter()
    num = 8_000
    for _ in range(num):
        guesses = Guesses([int(random.choice(4, p=guesser))], [(None, guesser)])
        drawn = [each.token for each in checked(growing, logits, guesses)]
        firsts[drawn[0]] += 1
        if len(drawn) == 2:
            seconds[drawn[1]] += 1
    accepted = float(np.minimum(guesser, np.exp(logits[0])).sum())
    assert abs(sum(seconds.values()) / num - accepted) < 0.018
    np.testing.assert_allclose([firsts[token] / num for token in range(4)], np.exp(logits[0]), atol=0.018)
    whole = sum(seconds.values())
    np.testing.assert_allclose([seconds[token] / whole for token in range(4)], np.exp(logits[1]), atol=0.03)


def test_whole_answers_are_distributed_as_without_guesses():
    """Three tokens, cut and with penalties: frequencies of all answers against the exact ones, by the net itself."""
    model, small = net(LARGE, 1, 0.2), net(SMALL, 2, 0.2)
    prompt, num = [1, 2, 3], 1_200

    def how(seed):
        return Sampling(0.8, top_k=3, presence=0.5, seed=seed)

    exact, sampler = {}, Sampler(how(0))

    def spread(drawn, chance):
        if len(drawn) == 3:
            exact[drawn] = chance
            return
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *drawn]]), torch.arange(3 + len(drawn))[None])[0, -1].numpy()
        tokens, weights = sampler.chances(logits, drawn)
        for token, weight in zip(tokens.tolist(), weights / weights.sum(), strict=True):
            spread((*drawn, token), chance * weight)

    spread((), 1.0)
    decoding = engine(model, small, 2)
    counts = Counter(
        tuple(tokens)
        for first in range(0, num, 60)
        for tokens in answers(decoding, [TokenAsk(n, prompt, 3, how(n)) for n in range(first, first + 60)]).values()
    )
    assert set(counts) <= set(exact)
    assert 0 < decoding.counts.accepted < decoding.counts.guessed
    chi2 = sum((counts[each] - num * chance) ** 2 / (num * chance) for each, chance in exact.items() if num * chance > 5)
    assert chi2 < 27 + 3.5 * (2 * 27) ** 0.5  # of at most 26 degrees of freedom


def test_masks_bind_guesses_and_a_mask_that_gives_up_ends_its_own_sequence_only():
    """The mask is asked about tokens that are taken back; it counts on what it is told and not on its own memory."""
    model, small = net(LARGE, 1), net(SMALL, 2)

    def mask(drawn):
        allowed = np.zeros(19, bool)
        allowed[(sum(drawn) + len(drawn)) % 3 :: 3] = True
        return allowed

    def stops(drawn):
        return mask(drawn) & (len(drawn) < 5)

    asks = [
        TokenAsk(0, [1, 2], 30, Sampling(temperature=0, mask=mask)),
        TokenAsk(1, [3], 30, Sampling(temperature=0, mask=stops)),
    ]
    alone = Decoding(Forward(model, 64), Pages(40, 2, 2, 8), None, "1")
    expected = answers(alone, asks)
    for drafter in (small, model):
        decoding = engine(model, drafter)
        assert answers(decoding, asks) == expected
        assert decoding.counts.guessed > 0
    assert len(expected[0]) == 30 and len(expected[1]) == 5
    assert all(token % 3 == (sum(expected[0][:at]) + at) % 3 for at, token in enumerate(expected[0]))


def test_nothing_is_guessed_after_an_end():
    """The first token is drawn, those up to the end are guessed by the model itself."""
    model, how = net(LARGE, 1), Sampling(2.0, seed=3)
    whole = answers(engine(model, model, 7), [TokenAsk(0, [1, 2], 12, how)])[0]
    at = next(at for at in range(2, 7) if whole[at] not in whole[:at])
    decoding = engine(model, model, 7)
    found = answers(decoding, [TokenAsk(0, [1, 2], 40, how, end=frozenset({whole[at]}))])
    assert found[0] == whole[: at + 1]
    assert (decoding.counts.guessed, decoding.counts.passes) == (at, 2)


def test_other_tokens_cannot_be_guessed_for():
    small = net(SMALL, 1)
    with pytest.raises(UsageError, match="same tokenizer"):
        Drafter(Forward(small, 64), Pages(4, 1, 1, 8), 20)
