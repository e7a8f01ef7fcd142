from __future__ import annotations

import math

import numpy as np
import pytest

from gyral.errors import InputError
from gyral.law.allocate import Budget, allocate, flops_of
from gyral.law.choose import choose
from gyral.law.methods import envelope, isoflop, minima, parametric
from gyral.law.runs import RunTable

from .swept import table

CHINCHILLA = {"E": 1.8, "A": 480.0, "B": 2080.0, "alpha": 0.35, "beta": 0.37}


def closed_form(flops: float) -> float:
    """Hoffmann et al., 2203.15556, equation 4."""
    p = CHINCHILLA
    g = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    return float(g * (flops / 6) ** (p["beta"] / (p["alpha"] + p["beta"])))


@pytest.fixture(scope="module")
def law() -> object:
    return choose(table(sigma=0.0), "chinchilla")


def test_without_servings_the_closed_form_is_found(law: object) -> None:
    found = allocate(law, Budget(1e21))
    assert pytest.approx(closed_form(1e21), rel=0.01) == found.N
    assert pytest.approx(1e21 / 6 / found.N, rel=1e-6) == found.D
    assert found.is_point and found.epochs == 1
    low, high = found.flat[0.001]
    assert low < found.N < high and found.flat[0.005].low < low
    edges = [1.8 + 480 * n**-0.35 + 2080 * (1e21 / 6 / n) ** -0.37 for n in (low, high)]
    assert max(edges) <= found.loss * 1.001 * (1 + 1e-6)


def test_what_is_answered_makes_models_smaller(law: object) -> None:
    sizes = [allocate(law, Budget(1e21, serve_tokens=tokens)).N for tokens in (0, 1e11, 1e12, 1e13)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.5 * sizes[0]
    found = allocate(law, Budget(1e21, serve_tokens=1e12))
    assert pytest.approx(1e21, rel=1e-6) == 6 * found.N * found.D + 2 * found.N * 1e12


def test_little_data_makes_models_larger_and_epochs_more(law: object) -> None:
    found = allocate(law, Budget(1e21, unique=1e9))
    assert 1.5 * closed_form(1e21) < found.N
    assert found.epochs == pytest.approx(found.D / 1e9) and found.epochs > 2
    assert found.loss > allocate(law, Budget(1e21)).loss
    assert any("assumed" in note for note in found.notes)


def test_fewer_bits_are_taken_only_where_they_pay(law: object) -> None:
    assert allocate(law, Budget(1e20, bits=(16, 8))).bits == 8
    assert allocate(law, Budget(1e20, bits=(16, 2))).bits in (2, 16)
    assert allocate(law, Budget(1e20, bits=(16, 8))).loss < allocate(law, Budget(1e20)).loss


def test_a_budget_below_any_model_is_refused(law: object) -> None:
    with pytest.raises(InputError, match="buy no model"):
        allocate(law, Budget(1e9))
    with pytest.raises(InputError, match="buy no model"):
        allocate(law, Budget(1e16, serve_tokens=1e13))


def test_no_point_is_told_where_the_law_is_not_identified() -> None:
    n = np.geomspace(1e6, 1e9, 16)
    columns = {"N": n, "D": 20 * n, "C": 120 * n * n}
    loss = (1.8 + 480 * n**-0.35 + 2080 * (20 * n) ** -0.37) * np.exp(np.random.default_rng(0).normal(0, 0.003, 16))
    found = allocate(choose(RunTable(columns, loss, np.arange(16).astype(str)), "chinchilla"), Budget(1e21))
    assert not found.is_point
    assert found.as_json()["N"] is None and found.as_json()["refused"]
    assert found.N_80.high / found.N_80.low > 2


def test_a_table_without_sizes_divides_nothing() -> None:
    c = np.geomspace(1e17, 1e21, 14)
    law = choose(RunTable({"C": c}, 1.7 + 900 * c**-0.16, np.arange(14).astype(str)))
    with pytest.raises(InputError, match="nothing to divide"):
        allocate(law, Budget(1e22))


def test_the_three_approaches_agree_on_a_clean_sweep(law: object) -> None:
    rows = []
    for flops in np.geomspace(1e18, 1e21, 7):
        best = closed_form(flops)
        rows += [(n, flops / 6 / n, flops) for n in best * np.geomspace(0.25, 4, 9)]
    n, d, c = (np.array(column) for column in zip(*rows, strict=True))
    swept = RunTable({"N": n, "D": d, "C": c}, 1.8 + 480 * n**-0.35 + 2080 * d**-0.37, np.arange(len(n)).astype(str))
    exponent = 0.37 / 0.72
    assert isoflop(swept).exponent == pytest.approx(exponent, abs=0.01)
    assert envelope(swept).exponent == pytest.approx(exponent, abs=0.03)
    assert parametric(choose(swept, "chinchilla"), 1e19, 1e22).exponent == pytest.approx(exponent, abs=0.005)
    assert all(each.is_inside for each in minima(swept))
    assert isoflop(swept).size(1e20) == pytest.approx(closed_form(1e20), rel=0.06)


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("1e22flop", 1e22),
        ("2.5e21flops", 2.5e21),
        ("500usd", 500 / 2 * 1e18),
        ("2h", 7200e12),
        ("30s", 30e12),
        ("1d", 86400e12),
    ],
)
def test_budgets_are_read(text: str, flops: float) -> None:
    assert flops_of(text, 2.0, 1e12) == pytest.approx(flops)


@pytest.mark.parametrize("text", ["much", "-1flop", "1e22", "nanflop", "infflop", "flop"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no budget"):
        flops_of(text, 2.0, 1e12)


def test_money_needs_a_price_and_time_a_rate() -> None:
    with pytest.raises(InputError, match="needs a price"):
        flops_of("5usd")
    with pytest.raises(InputError, match="needs a rate"):
        flops_of("5h")


def test_every_budget_below_a_law_is_finite(law: object) -> None:
    for flops in np.geomspace(1e16, 1e24, 9):
        assert math.isfinite(allocate(law, Budget(float(flops)), num=8).loss)
