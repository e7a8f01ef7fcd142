"""Published tables and what others found in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gyral.errors import ConfigError, InputError
from gyral.law import runs
from gyral.law.fit import Fitted, fit, loss_of, rows_of
from gyral.law.forms import find


def fitted(table: runs.RunTable, name: str, loss: str = "huber:1e-3") -> Fitted:
    form = find(name)
    return fit(form, rows_of(form, table.read_by(form.axes), table.loss), loss_of(loss))


def test_gemstones_gives_the_published_exponents(gemstones: runs.RunTable) -> None:
    found = fitted(gemstones, "chinchilla")  # McLeish et al., 2502.06857: 0.2929 and 0.7129 on the hot runs
    assert found.parameters["alpha"] == pytest.approx(0.2929, abs=5e-4)
    assert found.parameters["beta"] == pytest.approx(0.7129, abs=5e-4)
    assert found.is_identified


@pytest.mark.parametrize(
    ("data", "parameters", "errors"),
    [
        ("rpj", {"a": 166.21, "eta": 0.27285, "E": 1.83665}, {("open_lm_1b", 32): 0.007103, ("open_lm_7b", 1): 0.007320}),
        ("c4_original", {"a": 113.69, "eta": 0.24247, "E": 1.508}, {("open_lm_1b", 4): 0.01498, ("open_lm_7b", 1): -0.042952}),
    ],
)  # fmt: skip
def test_five_runs_foretell_the_two_large_ones_as_published(
    laws: Path, data: str, parameters: dict[str, float], errors: dict[tuple[str, float], float]
) -> None:
    # Gadre et al., 2403.08540: 20 tokens a parameter, and one small model at 320; least squares of losses
    rows = runs.load(laws / "overtraining_rpj_c4.csv").to_pylist()
    rows = [row for row in rows if row["dataset_name"] == data]
    models = [name for _, name in sorted({(row["N"], row["model_name"]) for row in rows})]
    train = [row for row in rows if row["cc_mult"] == 1 and row["model_name"] in models[:4]]
    train += [row for row in rows if row["cc_mult"] == 16 and row["model_name"] == models[0]]

    def columns(of: list[dict[str, float]]) -> dict[str, np.ndarray]:
        return {name: np.array([float(row[name]) for row in of]) for name in ("N", "D")}

    form = find("overtraining")
    observed = np.array([row["loss_c4_val"] for row in train])
    found = fit(form, rows_of(form, columns(train), observed), loss_of("squared:linear"))
    for name, value in parameters.items():
        assert found.parameters[name] == pytest.approx(value, rel=2e-4)
    for (model, times), error in errors.items():
        held = [row for row in rows if row["model_name"] == model and row["cc_mult"] == times]
        told = found.predict(columns(held))[0] / held[0]["loss_c4_val"] - 1
        assert told == pytest.approx(error, abs=2e-6)


def test_routing_gives_the_published_law(laws: Path) -> None:
    # Clark et al., 2202.01169, S-Base and the dense runs
    names = {"N": "dense_parameter_count", "experts": "num_experts", "loss": "loss_validation"}
    table = runs.read(laws / "routing_223.csv", names, {"router_type": "S-Base|Dense", "k": "1", "routing_frequency": "0.5"})
    found = fitted(table, "routing", "squared").parameters
    for name, value in {"a": -0.084, "b": -0.123, "c": 0.010, "d": 1.122}.items():
        assert found[name] == pytest.approx(value, abs=6e-4)
    assert found["E_start"] == pytest.approx(2.4, abs=0.05)
    assert found["E_max"] == pytest.approx(218, abs=1)


def test_no_start_of_a_brute_grid_does_better(gemstones: runs.RunTable) -> None:
    from gyral.law import kernel

    form, rng = find("chinchilla"), np.random.default_rng(0)
    rows = rows_of(form, gemstones.read_by(form.axes), gemstones.loss)
    low, high = np.array([-1, 0, 0, 0, 0.0]), np.array([1, 25, 25, 2, 2.0])
    starts = low + rng.random((300, 5)) * (high - low)  # those of Hoffmann et al. lie in this box
    _, value = kernel.polish_many(form.code, starts, *rows, form.low, form.high, 1e-3, True)
    assert fitted(gemstones, "chinchilla").objective <= np.nanmin(value) * (1 + 1e-6)


def test_a_law_that_says_too_much_is_not_identified() -> None:
    n = np.geomspace(1e6, 1e9, 12)
    columns, loss = {"N": n, "D": 20 * n}, 2 + 400 * n**-0.35  # size and data move together
    found = fit(find("chinchilla"), rows_of(find("chinchilla"), columns, loss))
    assert not found.is_identified


@pytest.mark.parametrize("text", ["huber", "huber:1e-2", "lad", "squared", "squared:linear", "lad:linear", "huber:1e-3:linear"])
def test_every_loss_finds_a_truth_without_noise(text: str) -> None:
    n, d = np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6))
    columns = {"N": n.ravel(), "D": d.ravel()}
    loss = 1.8 + 480 * columns["N"] ** -0.35 + 2080 * columns["D"] ** -0.37
    found = fit(find("chinchilla"), rows_of(find("chinchilla"), columns, loss), loss_of(text))
    assert found.parameters["alpha"] == pytest.approx(0.35, rel=1e-4)


def test_outliers_move_squares_and_not_absolute_deviations() -> None:
    n, d = np.meshgrid(np.geomspace(1e6, 1e9, 8), np.geomspace(1e8, 1e11, 8))
    columns = {"N": n.ravel(), "D": d.ravel()}
    loss = 1.8 + 480 * columns["N"] ** -0.35 + 2080 * columns["D"] ** -0.37
    loss[[7, 15, 23, 31]] *= 1.2  # the largest models, on the least data
    form = find("chinchilla")
    by = {kind: fit(form, rows_of(form, columns, loss), loss_of(kind)).parameters["alpha"] for kind in ("lad", "squared")}
    assert by["lad"] == pytest.approx(0.35, rel=1e-3)
    assert abs(by["squared"] / 0.35 - 1) > 0.02


@pytest.mark.parametrize("text", ["huber:x", "huber:-1", "mean", "lad:3", "squared:2", "huber:inf"])
def test_what_is_no_loss_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no loss"):
        loss_of(text)


def test_more_parameters_than_rows_are_refused() -> None:
    columns = {"N": np.array([1e6, 1e7, 1e8]), "D": np.array([1e8, 1e9, 1e10])}
    with pytest.raises(InputError, match="cannot be fitted"):
        rows_of(find("chinchilla"), columns, np.array([3, 2.5, 2.2]))
