from __future__ import annotations

import numpy as np
import pytest

from gyral.errors import InputError
from gyral.law import bowls
from gyral.law.runs import RunTable

RATES, BATCHES = 2.0 ** np.arange(-12, -4), 2.0 ** np.arange(15, 23)
CELLS = [(n, d) for n in (6e7, 2e8, 4e8, 1e9) for d in (2e9, 8e9, 5e10)]


def _best(N: float, D: float) -> tuple[float, float]:
    """Step Law's rules."""
    return 1.79 * N**-0.713 * D**0.307, 0.58 * D**0.571


def _sweep(noise: float = 0.0, seed: int = 0, bend: float = 0.0, cells=CELLS, rates=RATES, batches=BATCHES) -> RunTable:
    """Runs around the known best; `bend` makes the far sides steeper than a parabola."""
    rng, rows = np.random.default_rng(seed), []
    for N, D in cells:
        lr, batch = _best(N, D)
        for rate in rates:
            for size in batches:
                x, y = np.log(rate / lr), np.log(size / batch)
                off = 0.004 * x * x + 0.002 * y * y + 0.001 * x * y + bend * (np.expm1(x) - x)
                rows.append((N, D, rate, size, np.log(3.0) + off + noise * rng.standard_normal()))
    N, D, rate, size, loss = np.array(rows).T
    return RunTable({"N": N, "D": D, "C": 6 * N * D, "lr": rate, "batch": size}, np.exp(loss), np.arange(len(N)).astype(str))


def test_known_rules_are_found_exactly_without_noise() -> None:
    found = bowls.fit(_sweep(), num=50)
    assert len(found.bowls) == 12
    assert not found.stops
    lr, batch = found.laws["lr"], found.laws["batch"]
    assert lr.exponents == pytest.approx({"N": -0.713, "D": 0.307}, abs=1e-6)
    assert lr.coefficient == pytest.approx(1.79, rel=1e-5)
    assert batch.exponents == pytest.approx({"D": 0.571}, abs=1e-6)
    assert lr.value(N=1e9, D=1e11) == pytest.approx(_best(1e9, 1e11)[0], rel=1e-5)
    assert batch.interval(N=1e9, D=1e11).low == pytest.approx(_best(1e9, 1e11)[1], rel=1e-5)
    assert all(each.loss == pytest.approx(3.0) for each in found.bowls)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    inside, sets = np.zeros(4), 40
    for seed in range(sets):
        found = bowls.fit(_sweep(0.002, seed), num=200, seed=seed).laws
        spread = found["lr"].of_exponents(0.9)
        truth = _best(7e9, 1.4e11)
        inside += [
            spread["N"].holds(-0.713),
            spread["D"].holds(0.307),
            found["lr"].interval(0.9, N=7e9, D=1.4e11).holds(truth[0]),
            found["batch"].interval(0.9, D=1.4e11).holds(truth[1]),
        ]
    assert (inside / sets >= 0.8).all(), inside / sets
    assert inside.mean() / sets >= 0.88


def test_far_sides_that_are_no_parabola_count_less() -> None:
    table = _sweep(bend=0.004)
    found = bowls.fit(table, num=2)
    off = [abs(np.log(each.best["lr"] / _best(each.N, each.D)[0])) for each in found.bowls if each.is_inside]
    plain = []
    for each in found.bowls:
        x = np.log(table.columns["lr"][each.rows] / _best(each.N, each.D)[0])
        y = np.log(table.columns["batch"][each.rows] / _best(each.N, each.D)[1])
        design = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)
        theta = np.linalg.lstsq(design, np.log(table.loss[each.rows]), rcond=None)[0]
        curve = np.array([[2 * theta[3], theta[5]], [theta[5], 2 * theta[4]]])
        plain.append(abs(np.linalg.solve(curve, -theta[1:3])[0]))
    assert np.mean(off) < 0.6 * np.mean(plain)


def test_a_bottom_outside_the_sweep_asks_for_the_next_run_and_has_no_part_in_the_law() -> None:
    inside = _sweep()
    wrong = _sweep(cells=[(3e9, 1e11)], rates=2.0 ** np.arange(-9, -5))  # the best is near 2^-10.7
    columns = {name: np.concatenate([inside.columns[name], wrong.columns[name]]) for name in inside.columns}
    table = RunTable(columns, np.concatenate([inside.loss, wrong.loss]), np.arange(len(columns["N"])).astype(str))
    found = bowls.fit(table, num=10)
    (stop,) = found.stops
    assert stop.rule == "edge"
    assert "`lr` of N = 3e+09, D = 1e+11" in stop.what
    assert f"lr = {2.0**-10:.3g}" in stop.next
    assert found.laws["lr"].cells == 12
    assert found.laws["lr"].exponents == pytest.approx({"N": -0.713, "D": 0.307}, abs=1e-6)
    above = bowls.fit(_sweep(cells=[*CELLS, (6e7, 1e12)], rates=2.0 ** np.arange(-12, -6)), num=2)
    assert any(f"lr = {2.0**-6:.3g}" in each.next for each in above.stops)


def test_one_batch_is_a_parabola_and_one_amount_of_data_has_no_exponent() -> None:
    table = _sweep(cells=[(n, 8e9) for n in (6e7, 2e8, 4e8, 1e9)], batches=np.array([_best(1, 8e9)[1]]))
    found = bowls.fit(table, num=20)
    assert set(found.laws) == {"lr"}
    assert found.laws["lr"].exponents == pytest.approx({"N": -0.713}, abs=1e-6)
    told = found.laws["lr"].as_json()
    assert told["exponents_95"]["N"] == pytest.approx([-0.713, -0.713], abs=1e-6)


def test_tokens_that_go_with_parameters_have_one_exponent() -> None:
    table = _sweep(cells=[(n, 20 * n) for n in (6e7, 2e8, 4e8, 1e9)])
    assert bowls.fit(table, num=20).laws["lr"].exponents == pytest.approx({"N": -0.713 + 0.307}, abs=1e-6)


def test_two_rates_are_no_bowl() -> None:
    with pytest.raises(InputError, match="there is no bowl to fit"):
        bowls.fit(_sweep(rates=RATES[:2]))
    with pytest.raises(InputError, match="there is no column `lr`"):
        bowls.fit(RunTable({"N": np.ones(4), "D": np.ones(4)}, np.ones(4), np.arange(4).astype(str)))
