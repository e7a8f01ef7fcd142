import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from gyral.curate import caps

MAP = {"subject": "user", "object": "item", "time": "at"}


@given(st.lists(st.integers(0, 4), max_size=50), st.integers(0, 6))
def test_the_newest_are_kept(keys, most):
    expected = [most > 0 and keys[row + 1 :].count(key) >= most for row, key in enumerate(keys)]
    assert caps.over(np.array(keys, dtype=np.int64), most).tolist() == expected


def test_a_cap_names_the_rows_it_drops(project, tmp_path):
    # Of u: i four times, j, k; of v: i. In the file the newest come first.
    rows = [("u", "k", 9), ("u", "i", 8), ("u", "i", 7), ("u", "i", 6), ("u", "j", 3), ("u", "i", 2), ("v", "i", 1)]
    columns = {
        "user": [row[0] for row in rows],
        "item": [row[1] for row in rows],
        "at": [1_600_000_000 + row[2] for row in rows],
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    project.ingest(tmp_path / "x.parquet", ingest__map=MAP)
    made = project.curate(curate__max_per_subject_object=2, curate__max_per_subject=3)
    told = [made.why(project.lake, each["event_id"])["reason"] for each in project.events(["event_id"])]
    assert told == [None, None, None, "over_pair_cap", "over_cap", "over_pair_cap", None]
    assert made.manifest.dropped == {"over_pair_cap": 2, "over_cap": 1}
    assert made.read()["object"].to_pylist() == ["i", "i", "i", "k"]
