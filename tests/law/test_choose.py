from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gyral.errors import InputError
from gyral.law import choose, runs
from gyral.law.runs import RunTable

from .swept import table


@pytest.mark.parametrize("form", ["chinchilla", "kaplan"])
def test_the_form_that_made_the_runs_weighs_most(form: str) -> None:
    law = choose.choose(table(form=form, sigma=0.0005))
    by: dict[str, float] = {}
    for each in law.members:
        by[each.fitted.form.name] = by.get(each.fitted.form.name, 0) + each.weight
    assert max(by, key=by.__getitem__) == form
    assert sum(by.values()) == pytest.approx(1)


def test_what_is_foretold_of_held_out_runs_is_about_what_larger_ones_are_missed_by() -> None:
    whole = table(3, 0.003)
    keep = whole.columns["C"] <= whole.columns["C"].max() / 16
    law = choose.choose(whole.taken(keep))
    held = whole.taken(~keep)
    off = float(np.mean(np.abs(np.log(law.predict({name: held.columns[name] for name in ("N", "D")}) / held.loss))))
    assert off < 0.01
    assert law.error / 4 < off < law.error * 4


def test_draws_are_wider_far_away_than_among_the_runs() -> None:
    law = choose.choose(table(1, 0.004))
    near = law.sample({"N": np.array([1e8]), "D": np.array([1e10])}, 2_000)
    far = law.sample({"N": np.array([7e10]), "D": np.array([1.4e12])}, 2_000)
    assert np.std(np.log(far)) > 1.2 * np.std(np.log(near))
    assert law.reach({"N": np.array([1e8]), "D": np.array([1e10])})[0] == 0
    assert law.reach({"N": np.array([7e10]), "D": np.array([1.4e12])})[0] == pytest.approx(math.log10(9.8e22 / 1e20), abs=1e-9)


def test_the_noise_of_equal_runs_is_found() -> None:
    assert choose.choose(table(2, 0.01), "chinchilla").noise == pytest.approx(0.01, rel=0.4)


def test_a_table_of_compute_alone_is_fitted(laws: Path) -> None:
    c = np.geomspace(1e17, 1e21, 14)
    found = choose.choose(RunTable({"C": c}, 1.7 + 900 * c**-0.16, np.arange(14).astype(str)))
    assert found.predict({"C": np.array([1e22])})[0] == pytest.approx(1.7 + 900 * 1e22**-0.16, rel=1e-3)


def test_a_target_that_lacks_a_column_is_refused() -> None:
    law = choose.choose(table())
    with pytest.raises(InputError, match="`D` is not said"):
        law.predict({"N": np.array([1e9])})


def test_repeated_data_calls_for_its_own_law() -> None:
    found = table()
    columns = {**found.columns, "D_unique": found.columns["D"] / 4}
    assert choose.candidates(RunTable(columns, found.loss, found.run)) == ("data_constrained",)
    assert (
        choose.candidates(RunTable({**found.columns, "D_unique": found.columns["D"]}, found.loss, found.run)) == choose.TWO_AXES
    )


def test_the_choice_beats_the_fixed_form_where_it_is_wrong(laws: Path) -> None:
    whole = table(5, 0.001, "kaplan")
    keep = whole.columns["C"] <= whole.columns["C"].max() / 16
    held = whole.taken(~keep)
    asked = {name: held.columns[name] for name in ("N", "D")}
    off = {
        name: float(np.mean(np.abs(np.log(choose.choose(whole.taken(keep), name).predict(asked) / held.loss))))
        for name in ("auto", "chinchilla")
    }
    assert off["auto"] < 0.5 * off["chinchilla"]


def test_rows_are_read_by_name_and_value(laws: Path) -> None:
    names = {"loss": "loss_c4_val", "C": "flops", "run": "name"}
    found = runs.read(laws / "overtraining_rpj_c4.csv", names, {"dataset_name": "rpj"})
    assert len(found) == 35
    assert found.columns["C"][0] == 3351310684600320
