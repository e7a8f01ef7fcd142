from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gyral.errors import InputError
from gyral.law import mixture_worth, verb
from gyral.law.allocate import Budget, allocate
from gyral.law.choose import choose
from gyral.law.mixture_allocate import Blend, unique_of, worth_of
from gyral.law.runs import RunTable

from .blended import RHO, WORTH, blended, mixed_loss, repeated
from .test_commands import run, written  # noqa: F401

DOMAINS = ("web", "code", "chat")


@pytest.fixture(scope="module")
def worth() -> mixture_worth.Worth:
    return mixture_worth.fit(blended())


@pytest.fixture(scope="module")
def law(worth: mixture_worth.Worth):
    return choose(worth.told, "chinchilla")


def least(flops: float, unique: np.ndarray, serve: float = 0.0) -> float:
    """The best of a grid over sizes and weights, by the truth."""
    first, second = (each.ravel() for each in np.meshgrid(np.linspace(0, 1, 201), np.linspace(0, 1, 201)))
    weights = np.stack([first, second, 1 - first - second], axis=1)
    weights = np.maximum(weights[weights[:, 2] > -1e-9], 0)
    best = math.inf
    for size in np.geomspace(1e8, 1e11, 301):
        data = (flops - 2 * size * serve) / (6 * size)
        if data > 1e8:
            best = min(best, float(mixed_loss(size, repeated(weights * data, unique)).min()))
    return best


@pytest.mark.parametrize(
    ("flops", "unique", "serve"),
    [
        (1e21, {}, 0.0),
        (1e21, {"web": 5e9, "code": 2e10}, 0.0),
        (1e22, {"web": 2e9, "code": 1e9, "chat": 3e9}, 0.0),
        (3e21, {"web": 5e9}, 1e12),
    ],
)
def test_no_grid_finds_a_better_model_and_mixture(worth, law, flops: float, unique: dict[str, float], serve: float) -> None:
    found = allocate(law, Budget(flops, serve, unique_by=unique), worth, num=40)
    there = unique_of(unique, DOMAINS)
    weights = np.array([found.mixed.weights[name] for name in DOMAINS])
    assert weights.sum() == pytest.approx(1, abs=1e-9) and (weights >= 0).all()
    assert 6 * found.N * found.D + 2 * found.N * serve == pytest.approx(flops, rel=1e-6)
    ours = float(mixed_loss(np.array(found.N), repeated(weights[None] * found.D, there))[0])
    assert ours <= least(flops, there, serve) * 1.0001
    assert found.loss == pytest.approx(ours, rel=1e-4)
    for d, name in enumerate(DOMAINS):
        assert found.mixed.epochs[name] == pytest.approx(max(1.0, weights[d] * found.D / there[d]))
    assert found.epochs == pytest.approx(found.D / np.minimum(weights * found.D, there).sum())


def test_without_limits_the_mixture_is_the_closed_form_at_any_budget(worth, law) -> None:
    told = np.array(WORTH) ** (1 / (1 - RHO))
    for flops in (1e19, 1e23):
        found = allocate(law, Budget(flops), worth, num=40).mixed
        np.testing.assert_allclose([*found.weights.values()], told / told.sum(), atol=0.01)
        assert set(found.epochs.values()) == {1.0} and not found.notes


def test_with_one_domain_the_answer_is_that_without() -> None:
    table = blended()
    columns = {name: each for name, each in table.columns.items() if not name.startswith("w:")}
    plain = RunTable(columns, table.loss, table.run)
    named = replace(plain, columns={**columns, "w:web": np.ones(len(plain))})
    assert worth_of(named) == (None, None)
    law, alone = choose(named, "chinchilla"), choose(plain, "chinchilla")
    assert allocate(law, Budget(1e21), num=40) == allocate(alone, Budget(1e21), num=40)
    by_name = allocate(law, Budget(1e21, unique_by={"web": 2e9}), num=40)
    assert by_name.epochs > 2 and by_name == allocate(alone, Budget(1e21, unique=2e9), num=40)
    with pytest.raises(InputError, match="`code` cannot be used"):
        allocate(law, Budget(1e21, unique_by={"code": 2e9}), num=40)


def test_a_domain_is_repeated_before_a_worthless_one_is_taken(worth) -> None:
    """Limits bind one after the other, and the last token is worth the same everywhere."""
    blend = Blend(worth, np.array([1e9, 2e9, 4e9]))
    data = np.geomspace(1e7, 1e11, 41)
    tokens = blend.best(data)
    np.testing.assert_allclose(tokens.sum(axis=1), data, rtol=1e-12)
    step = 1e-5 * tokens
    gain = np.stack([blend.value(tokens + step * np.eye(3)[d]) - blend.value(tokens) for d in range(3)], axis=1) / step
    np.testing.assert_allclose(gain, gain[:, :1] * np.ones(3), rtol=2e-3)
    free = Blend(worth, np.full(3, math.inf)).told(data)
    assert (blend.told(data) <= free * (1 + 1e-9)).all() and blend.told(data)[0] == pytest.approx(free[0], rel=1e-9)
    assert blend.told(data)[-1] < 0.7 * free[-1]


def test_weights_are_flat_about_the_best_and_bounds_are_where_the_loss_says(worth, law) -> None:
    found = allocate(law, Budget(1e21, unique_by={"web": 5e9}), worth, num=40)
    for share in (0.001, 0.005):
        for name in DOMAINS:
            low, high = found.mixed.flat[share][name]
            assert low <= found.mixed.weights[name] <= high
    low, high = found.mixed.flat[0.001]["web"]
    assert low > 0 and high < 1 and found.mixed.flat[0.005]["web"].low < low
    there = unique_of({"web": 5e9}, DOMAINS)
    for at, is_in in ((low, True), (high, True), (low - 0.005, False), (high + 0.005, False)):
        share = np.linspace(0, 1, 2001)[:, None]
        weights = np.concatenate([np.full_like(share, at), (1 - at) * share, (1 - at) * (1 - share)], axis=1)
        best = float(mixed_loss(np.array(found.N), repeated(weights * found.D, there)).min())
        assert (best <= found.loss * 1.001 * (1 + 2e-5)) is is_in


def test_noise_widens_what_is_told_of_weights() -> None:
    wide = []
    for sigma in (0.001, 0.01):
        each = mixture_worth.fit(blended(sigma=sigma))
        found = allocate(choose(each.told, "chinchilla"), Budget(1e21), each, num=40).mixed
        assert found.stop is None
        wide.append(found.weights_80["web"].high - found.weights_80["web"].low)
    assert wide[1] > 3 * wide[0]


def test_weights_that_nobody_knows_are_not_told() -> None:
    each = mixture_worth.fit(blended(seed=4, sigma=0.08, rows=24))
    found = allocate(choose(each.told, "chinchilla"), Budget(1e21), each, num=40)
    assert found.mixed.stop is not None and found.mixed.stop in found.stops
    told = found.as_json()
    assert told["weights"] is None and "epochs_by_domain" not in told and set(told["weights_80"]) == set(DOMAINS)


def test_a_mixture_beyond_all_runs_is_said_to_be() -> None:
    table = blended(spread=8.0)
    each = mixture_worth.fit(table)
    found = allocate(choose(each.told, "chinchilla"), Budget(1e21), each, num=40)
    assert found.mixed.weights["web"] > table.columns["w:web"].max() + 0.1
    assert any("of `web` is more than any run had" in note for note in found.notes)


def test_what_there_is_must_be_said_of_domains(worth, law) -> None:
    with pytest.raises(InputError, match="there is no domain `wen`") as refused:
        allocate(law, Budget(1e21, unique_by={"wen": 1e9}), worth)
    assert "web" in (refused.value.hint or "")
    with pytest.raises(InputError, match="`web` has -1 tokens"):
        allocate(law, Budget(1e21, unique_by={"web": -1.0}), worth)
    with pytest.raises(InputError, match=r"1e\+09 tokens are of no domain"):
        allocate(law, Budget(1e21, unique=1e9), worth)
    with pytest.raises(InputError, match="how much there is of `web` cannot be used"):
        allocate(law, Budget(1e21, unique_by={"web": 1e9}))


def test_from_a_file_to_weights_and_epochs(run, tmp_path: Path) -> None:  # noqa: F811
    table = blended(sigma=0.001)
    path = tmp_path / "runs.csv"
    names = ("N", "D", "w:web", "w:code", "w:chat")
    written(path, ",".join((*names, "loss")), zip(*(table.columns[name] for name in names), table.loss, strict=True))
    words = ("allocate", str(path), "--budget", "1e21flop", "--form", "chinchilla")
    told = run(*words, "--unique", "web=5e9,code=3e9")
    assert sum(told["weights"].values()) == pytest.approx(1) and told["epochs_by_domain"]["web"] > 2
    assert told["epochs_by_domain"]["web"] == pytest.approx(told["weights"]["web"] * told["D"] / 5e9)
    text = verb.allocation_text(told)
    assert "weight of web: 0." in text and "epochs, 80 %: " in text
    assert "there is no domain `news`" in run(*words, "--unique", "news=1e9", ok=False)
    assert "are of no domain" in run(*words, "--unique", "1e9", ok=False)
    assert "say it twice" in run(*words, "--unique", "1e9", "--unique", "web=1e9", ok=False)
    assert json.dumps(told)


def test_a_table_that_cannot_tell_says_so_and_refuses_limits_of_domains(run, tmp_path: Path) -> None:  # noqa: F811
    table = blended(sigma=0.001)
    path = tmp_path / "runs.csv"
    rest = 1 - table.columns["w:web"]
    columns = (table.columns["N"], table.columns["D"], table.columns["w:web"], rest / 2, rest / 2, table.loss)
    written(path, "N,D,w:web,w:code,w:chat,loss", zip(*columns, strict=True))
    words = ("allocate", str(path), "--budget", "1e21flop", "--form", "chinchilla")
    told = run(*words)
    assert "weights_80" not in told
    assert any(each["rule"] == "mixture" and "cannot be told apart" in each["what"] for each in told["stops"])
    assert "how much there is of each domain cannot be used" in run(*words, "--unique", "web=1e9", ok=False)
