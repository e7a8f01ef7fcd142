from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gyral.errors import InputError
from gyral.law import mixture_worth
from gyral.law.choose import choose

from .blended import RHO, WORTH, blended


def test_worths_are_found_again() -> None:
    found = mixture_worth.fit(blended())
    assert found.domains == ("web", "code", "chat") and found.rho == pytest.approx(RHO, abs=0.01)
    np.testing.assert_allclose(found.by_domain / found.by_domain[0], WORTH, rtol=0.01)


def test_data_is_told_in_tokens_of_the_mean_mixture() -> None:
    table = blended()
    found = mixture_worth.fit(table)
    mean = found.weights_nD.mean(axis=0)
    np.testing.assert_allclose(found.tokens(mean[None] * 7e9), 7e9)
    law = choose(found.told, "chinchilla")
    assert law.best.parameters["alpha"] == pytest.approx(0.35, abs=0.003)
    assert law.best.parameters["beta"] == pytest.approx(0.37, abs=0.003)
    assert abs(np.log(law.predict(found.told.columns) / table.loss)).max() < 1e-4


def test_one_run_that_went_wrong_moves_little() -> None:
    table = blended(sigma=0.001)
    loss = table.loss.copy()
    loss[3] *= 1.5
    clean, hurt = (mixture_worth.fit(replace(table, loss=each)) for each in (table.loss, loss))
    np.testing.assert_allclose(hurt.by_domain, clean.by_domain, rtol=0.03)


def test_bootstraps_spread_as_fits_of_other_tables_do() -> None:
    fits = [mixture_worth.fit(blended(seed, 0.003)) for seed in range(12)]
    true = np.std([np.log(each.by_domain[2] / each.by_domain[0]) for each in fits])
    drawn = np.std([np.log(each.by_domain[2] / each.by_domain[0]) for each in fits[0].bootstraps(40, 1)])
    assert 0.4 < drawn / true < 2.5


def test_rows_that_repeat_are_left_out() -> None:
    table = blended()
    unique = table.columns["D"].copy()
    unique[:20] /= 8
    loss = table.loss.copy()
    loss[:20] *= 1.3
    found = mixture_worth.fit(replace(table, loss=loss, columns={**table.columns, "D_unique": unique}))
    assert len(found.table) == 70 and found.rho == pytest.approx(RHO, abs=0.01)
    assert "D_unique" not in found.told.columns


def test_what_a_table_cannot_tell_is_refused_by_name() -> None:
    table = blended()
    with pytest.raises(InputError, match="cannot be fitted") as few:
        mixture_worth.fit(table.taken(np.arange(8)))
    assert few.value.why == "8 rows whose data is not repeated, 8 parameters"
    rest = 1 - table.columns["w:web"]
    tied = {**table.columns, "w:code": rest * 0.7, "w:chat": rest * 0.3}
    with pytest.raises(InputError, match="the worth of `code` and of `chat` cannot be told apart"):
        mixture_worth.fit(replace(table, columns=tied))
    with pytest.raises(InputError, match="weights of row 1 are no mixture"):
        mixture_worth.fit(replace(table, columns={**table.columns, "w:web": rest * 0 + 3}))
    with pytest.raises(InputError, match="no column `N`"):
        mixture_worth.fit(replace(table, columns={k: v for k, v in table.columns.items() if k != "N"}))
