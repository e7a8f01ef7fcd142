"""The history net, against sums over dictionaries."""

import numpy as np
import torch

from gyral.model.nets.asked import Asked
from gyral.model.nets.history import HALF_LIVES_S, History, Shape, seen

OBJECTS, WIDTH = 12, 4


def net(width=WIDTH):
    torch.manual_seed(0)
    made = History(Shape(OBJECTS, width, 8))
    with torch.no_grad():
        for param in made.parameters():
            param.add_(0.3 * torch.rand_like(param))
    return made.eval()


def asked(rng, rows=5, longest=8):
    sizes = rng.integers(1, longest + 1, rows)
    items, times = rng.integers(0, OBJECTS, (rows, longest)), np.sort(rng.integers(1, 200 * 86_400, (rows, longest)), axis=1)
    for row, size in enumerate(sizes):
        items[row, size:], times[row, size:] = 0, 0
    return sizes, items, times


def by_hand(made, items, times, moment):
    """Scores at a moment, from Python's own sums."""
    arrays = {name: param.detach().double().numpy() for name, param in made.named_parameters()}
    before = [(item, time) for item, time in zip(items, times, strict=True) if time < moment]
    newest = max((time for _, time in before), default=0)
    scores = arrays["bias"].copy()
    for number, half_life in enumerate(HALF_LIVES_S):
        met = {}
        for item, time in before:
            met[item] = met.get(item, 0.0) + 2.0 ** (-(newest - time) / half_life)
        for item, amount in met.items():
            scores[item] += arrays["gain"][number] * np.log1p(amount)
    if "mix" in arrays and before:
        weight = [
            sum(mix * 2.0 ** (-(newest - time) / hl) for mix, hl in zip(arrays["mix"], HALF_LIVES_S, strict=True))
            for _, time in before
        ]
        state = sum(one * arrays["objects.weight"][item] for one, (item, _) in zip(weight, before, strict=True))
        scores += arrays["answers.weight"] @ (state / (sum(weight) ** 0.5 + 0.1))
    return scores


def test_scores_are_the_sums_that_are_promised():
    rng = np.random.default_rng(0)
    sizes, items, times = asked(rng)
    for made in (net(), net(0)):
        numbers = [torch.from_numpy(each) for each in (items, times, sizes)]
        moments = torch.from_numpy(rng.integers(0, 250 * 86_400, (len(sizes), 3)))
        logits = made(*seen(*numbers, moments)).detach().numpy()
        told = made.score(Asked(numbers[2], numbers[2], numbers[0], numbers[1], numbers[2])).detach().numpy()
        for row, size in enumerate(sizes):
            own = items[row, :size].tolist(), times[row, :size].tolist()
            assert np.allclose(told[row], by_hand(made, *own, 10**12), atol=1e-4)
            for column in range(3):
                assert np.allclose(logits[row, column], by_hand(made, *own, int(moments[row, column])), atol=1e-4)


def test_padding_changes_nothing():
    sizes, items, times = asked(np.random.default_rng(1))
    made, moments = net(), torch.full((5, 1), 10**9)
    wide = [np.pad(each, ((0, 0), (0, 7))) for each in (items, times)]
    short = made(*seen(*(torch.from_numpy(each) for each in (items, times, sizes)), moments))
    long = made(*seen(*(torch.from_numpy(each) for each in (*wide, sizes)), moments))
    assert torch.allclose(short, long, atol=1e-6)
