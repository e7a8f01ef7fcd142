from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from gyral.errors import InputError
from gyral.law import runs

GOOD = [{"N": 10.0**i, "D": 10.0 ** (i + 1), "loss": 4 - 0.2 * i} for i in range(5, 11)]


def read(rows: list[dict[str, object]], **names: str) -> runs.RunTable:
    return runs.table_of(pa.Table.from_pylist(rows), names, "here")


def test_compute_is_reckoned_and_said() -> None:
    found = read(GOOD)
    assert found.columns["C"].tolist() == [6 * row["N"] * row["D"] for row in GOOD]
    assert found.notes == ("FLOPs are reckoned as 6 N D",)
    assert found.decades == pytest.approx(10)


def test_compute_that_was_counted_is_kept() -> None:
    found = read([{**row, "C": 7 * row["N"] * row["D"]} for row in GOOD])
    assert found.columns["C"][0] == 7 * GOOD[0]["N"] * GOOD[0]["D"]
    assert found.notes == ()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"loss": -0.1}, "`loss` is -0.1 in row 7"),
        ({"loss": float("nan")}, "`loss` is nan in row 7"),
        ({"loss": None}, "`loss` is nan in row 7"),
        ({"N": 0.0}, "`N` is 0 in row 7"),
        ({"D": float("inf")}, "`D` is inf in row 7"),
        ({"w:web": -0.5}, "`w:web` is -0.5 in row 7"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_row(row: dict[str, object], says: str) -> None:
    whole = [{**each, "w:web": 0.5} for each in GOOD]
    with pytest.raises(InputError, match=says):
        read([*whole, {**whole[-1], **row}])


def test_text_among_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="`loss` holds no numbers"):
        read([{**row, "loss": "big"} for row in GOOD])


def test_rows_that_say_the_same_count_once() -> None:
    found = read([*GOOD, GOOD[0], GOOD[0]])
    assert len(found) == len(GOOD)
    assert "2 rows are the same as others, and left out" in found.notes


def test_rows_of_a_schedule_that_had_not_ended_are_left_out() -> None:
    states = ["finished", "mid_cosine", "finished", "decayed", "constant", "finished"]
    found = read([{**row, "schedule": state} for row, state in zip(GOOD, states, strict=True)])
    assert len(found) == 5
    assert found.notes[0] == "1 rows of an unfinished cosine schedule are left out"
    with pytest.raises(InputError, match="no row may be fitted"):
        read([{**row, "schedule": "mid_cosine"} for row in GOOD])


def test_units_that_are_mixed_are_noticed() -> None:
    rows = [{**row, "D": row["D"] / 1e9 if i % 2 else row["D"]} for i, row in enumerate(GOOD)]
    assert any("of one unit?" in each for each in read(rows).notes)


def test_three_rows_are_too_few() -> None:
    with pytest.raises(InputError, match="too few runs"):
        read(GOOD[:3])


def test_a_column_is_called_as_the_user_says() -> None:
    rows = [{"params": row["N"], "tokens": row["D"], "val": row["loss"]} for row in GOOD]
    assert len(read(rows, N="params", D="tokens", loss="val")) == 6
    with pytest.raises(InputError, match="there is no column `parms`"):
        read(rows, N="parms", D="tokens", loss="val")
    with pytest.raises(InputError, match="there is no column `loss`"):
        read(rows, N="params", D="tokens")
    with pytest.raises(InputError, match="how large"):
        read(rows, loss="val")


def test_a_table_grows_by_rows_of_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "laws" / "runs.parquet"
    runs.append(path, GOOD[:4])
    runs.append(path, [{**row, "family": "lm", "seed": 3} for row in GOOD[4:]])
    table = runs.load(path)
    assert table.num_rows == 6
    assert table["family"].to_pylist() == [None] * 4 + ["lm"] * 2
    assert len(runs.read(path)) == 6


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such table"):
        runs.load(tmp_path / "nothing.csv")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="cannot be read"):
        runs.load(tmp_path / "bad.parquet")
