from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gyral.errors import InputError
from gyral.law import choose, link, runs
from gyral.law.fit import fit, loss_of, rows_of
from gyral.law.forms import find

LAWS = Path(__file__).resolve().parents[2] / "data" / "laws"


def _runs(data: str) -> tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]:
    """Of Gadre et al.: five small runs, the 1.4B at 20 tokens a parameter, and the two that are foretold."""
    rows = [row for row in runs.load(LAWS / "overtraining_rpj_c4.csv").to_pylist() if row["dataset_name"] == data]
    small = [row for row in rows if row["N"] < 1e9 and row["tok_mult"] == 20]
    small += [row for row in rows if row["N"] < 2e7 and row["tok_mult"] == 320]
    (middle,) = [row for row in rows if row["model_name"] == "open_lm_1b" and row["tok_mult"] == 20]
    asked = [row for row in rows if row["N"] > 1e9 and row is not middle]
    return small, middle, sorted(asked, key=lambda row: row["N"])


def _columns(rows: list[dict[str, Any]], *names: str) -> dict[str, np.ndarray]:
    return {name: np.array([float(row[name]) for row in rows]) for name in names}


@pytest.mark.parametrize(("data", "errors"), [("rpj", (0.036365, 0.000464)), ("c4_original", (0.095817, 0.001370))])
def test_the_error_of_large_runs_is_foretold_as_published(data: str, errors: tuple[float, float]) -> None:
    # Gadre et al., 2403.08540: 17 tasks; the link sees measured losses, and is asked at what the loss law foretells
    small, middle, asked = _runs(data)
    form = find("overtraining")
    small_losses = _columns(small, "loss_c4_val")["loss_c4_val"]
    law = fit(form, rows_of(form, _columns(small, "N", "D"), small_losses), loss_of("squared:linear"))
    seen = _columns([*small, middle], "loss_c4_val", "err_avg_subset")
    found = link.fit(seen["loss_c4_val"], seen["err_avg_subset"], num=50)
    told = found.predict(law.predict(_columns(asked, "N", "D")))
    observed = _columns(asked, "err_avg_subset")["err_avg_subset"]
    assert np.abs(told / observed - 1) == pytest.approx(errors, abs=2e-6)
    assert found.fitted.is_identified


def test_known_parameters_are_found_and_intervals_hold_what_comes() -> None:
    rng = np.random.default_rng(0)
    truth, inside, many = np.array([0.85, 2.2, 0.72]), 0, 0

    def error(loss: np.ndarray) -> np.ndarray:
        return np.asarray(truth[0] - truth[1] * np.exp(-truth[2] * loss))

    loss = np.linspace(2.4, 5.5, 14)
    exact = link.fit(loss, error(loss), num=5)
    assert list(exact.fitted.parameters.values()) == pytest.approx(truth, rel=1e-4)
    noisy = link.fit(loss, error(loss) + 0.004 * rng.standard_normal(14), num=200)
    spread = noisy.sample(np.full((4_000, 1), 3.5)).std()  # in the middle of the runs, where the link itself is sure
    assert 0.95 * noisy.noise < spread < 1.3 * noisy.noise
    assert exact.reach(np.array([2.0, 3.0])) == pytest.approx([0.4, 0.0])
    for seed in range(40):
        found = link.fit(loss, error(loss) + 0.004 * rng.standard_normal(14), num=200, seed=seed)
        comes = error(np.array([2.2])) + 0.004 * rng.standard_normal(1)
        (low, high) = found.interval(np.full((400, 1), 2.2), 0.8, seed)[0]
        inside, many = inside + bool(low <= comes[0] <= high), many + 1
    assert 0.65 <= inside / many <= 0.95


def test_what_the_loss_is_not_sure_of_the_error_is_not_either() -> None:
    small, middle, asked = _runs("rpj")
    seen = _columns([*small, middle], "loss_c4_val", "err_avg_subset")
    found = link.fit(seen["loss_c4_val"], seen["err_avg_subset"], num=200)
    names = {"loss": "loss_c4_val", "C": "flops", "run": "name"}
    table = runs.read(LAWS / "overtraining_rpj_c4.csv", names, {"dataset_name": "rpj"})
    law = choose.choose(table.taken(table.columns["N"] < 1e9), "tied")
    losses = law.sample(_columns(asked[1:], "N", "D"), 400)
    observed = asked[1]["err_avg_subset"]
    wide = found.interval(losses, 0.95)[0]
    narrow = found.interval(np.full_like(losses, np.median(losses)), 0.95)[0]
    assert wide.holds(observed)
    assert wide.high - wide.low > narrow.high - narrow.low
    sample = found.sample(losses)
    assert ((sample >= 0) & (sample <= 1)).all()


@pytest.mark.parametrize(
    ("loss", "error", "what"),
    [
        ([3, 4, 5], [0.5, 0.6, 0.7], "too few runs"),
        ([3, 4, 5, 6], [50, 60, 70, 80], "row 1 has loss 3 and error 50"),
        ([3, 4, 5, np.nan], [0.5, 0.6, 0.7, 0.8], "row 4 has loss nan"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said(loss: list[float], error: list[float], what: str) -> None:
    with pytest.raises(InputError) as raised:
        link.fit(np.array(loss), np.array(error))
    assert what in raised.value.what
