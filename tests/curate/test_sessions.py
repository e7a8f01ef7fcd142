import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.curate import sessions
from gyral.curate.interactions import KEPT
from gyral.curate.kept import Kept

MAP = {"subject": "user", "object": "item", "time": "at", "session": "visit"}


def kept_of(rows):
    """(subject, microseconds, session) in order of time."""
    columns = {name: pa.nulls(len(rows), KEPT.field(name).type) for name in KEPT.names}
    columns["subject"] = pa.array([row[0] for row in rows], pa.string())
    columns["event_time"] = pa.array([row[1] for row in rows], pa.int64()).cast(KEPT.field("event_time").type)
    columns["session"] = pa.array([row[2] for row in rows], pa.string())
    import numpy as np

    return Kept(pa.table(columns, schema=KEPT), np.zeros(len(rows), dtype=np.int16), [""])


def oracle(rows, gap_us):
    last, names, result = {}, {}, []
    for subject, time, session in rows:
        if session is None:
            if subject not in last or time - last[subject] > gap_us:
                names[subject] = f"{subject}/{time}"
            last[subject] = time
            session = names[subject]
        result.append(session)
    return result


ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60), st.sampled_from([None, None, None, "own"])), max_size=60)


@given(ROWS, st.integers(1, 20))
@settings(deadline=None)
def test_a_session_ends_with_a_pause(rows, gap_s):
    rows = sorted(((who, at * 1_000_000, session) for who, at, session in rows), key=lambda row: row[1])
    kept = kept_of(rows)
    facts = sessions.fill(kept, gap_s)
    expected = oracle(rows, gap_s * 1_000_000)
    assert kept.rows["session"].to_pylist() == expected and kept.rows.schema == KEPT
    missing = [name for name, row in zip(expected, rows, strict=True) if row[2] is None]
    assert facts == ({"gap_s": gap_s, "made": len(set(missing)), "rows": len(missing)} if missing else {})


def test_they_are_made_when_asked_for_and_named_the_same_when_more_comes(project, tmp_path):
    def come(name, times):
        rows = {"user": ["u"] * len(times), "item": ["i"] * len(times), "at": [1_600_000_000 + at for at in times]}
        rows["visit"] = pa.array(["given" if at == 7 else None for at in times], pa.string())
        pq.write_table(pa.table(rows), tmp_path / name)
        project.ingest(tmp_path / name, ingest__map=MAP)

    come("a.parquet", [0, 7, 100, 5_000])
    assert project.curate().read()["session"].to_pylist() == [None, "given", None, None]
    made = project.curate(curate__session_gap_s=1800.0)
    first, second = "u/1600000000000000", "u/1600005000000000"
    assert made.read()["session"].to_pylist() == [first, "given", first, second]
    assert made.manifest.facts == {"sessions": {"gap_s": 1800.0, "made": 2, "rows": 3}}
    come("b.parquet", [5_900, 9_000])
    again = project.curate(curate__session_gap_s=1800.0).read()["session"].to_pylist()
    assert again == [first, "given", first, second, second, "u/1600009000000000"]
