"""The as-of join against Feast's offline store on DuckDB: 200,000 examples, 800,000 feature rows, 100,000 subjects.

Features are never late here, so that both mean the same, and the values that both bring are compared row by row. Feast is timed
from `get_historical_features` to a data frame, gyral from Arrow tables in memory to a table; reading the files is timed too.
Each in a process of its own, in turn; medians of the rounds.
Command: .venv/bin/python benchmarks/lake/asof.py (about two minutes)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, in_turn, peer, timed, write

EXAMPLES, FEATURES, SUBJECTS, ROUNDS = 200_000, 800_000, 100_000, 5
START = np.datetime64("2026-01-01T00:00:00", "us").astype(np.int64)

GYRAL = """
import json, sys, time
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from gyral.lake.asof import asof_join
root = Path(sys.argv[1])
one = pa.table({"subject": ["a"], "event_time": [1]})
asof_join(one, one.append_column("ingest_time", one["event_time"]))  # compiles, or finds what is compiled
start = time.perf_counter()
features, examples = pq.read_table(root / "features.parquet"), pq.read_table(root / "examples.parquet")
read = time.perf_counter()
joined = asof_join(examples, features)
done = time.perf_counter()
pq.write_table(joined, root / "gyral.parquet")
print(json.dumps({"join_s": done - read, "with_reading_s": done - start}))
"""
FEAST = """
import json, os, sys, time
from datetime import timedelta
from pathlib import Path
import pandas as pd
root = Path(sys.argv[1])
os.environ["FEAST_USAGE"] = "False"
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, Int64
store = FeatureStore(config=RepoConfig(project="p", provider="local", registry=str(root / "registry.db"),
    offline_store={"type": "duckdb"}, online_store=None, entity_key_serialization_version=3))
subject = Entity(name="subject", join_keys=["subject"], value_type=ValueType.STRING)
source = FileSource(name="s", path=str(root / "features.parquet"), timestamp_field="event_time",
    created_timestamp_column="ingest_time")
view = FeatureView(name="v", entities=[subject], ttl=timedelta(0), source=source,
    schema=[Field(name="value", dtype=Int64), Field(name="other", dtype=Float64)])
store.apply([subject, view])
start = time.perf_counter()
examples = pd.read_parquet(root / "examples.parquet").rename(columns={"event_time": "event_timestamp"})
got = store.get_historical_features(entity_df=examples, features=["v:value", "v:other"]).to_df()
done = time.perf_counter()
got.to_parquet(root / "feast.parquet")
print(json.dumps({"join_s": done - start, "with_reading_s": done - start}))
"""


def main() -> None:
    feast = peer("lake-feast", ["feast[duckdb]==0.67.*"])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_tables(root)

        def run(python: str, code: str) -> dict[str, float]:
            done = timed([python, "-c", code, str(root)])
            return {**json.loads(str(done.pop("stdout")).strip().splitlines()[-1]), **done}

        results = in_turn({"gyral": lambda: run(PYTHON, GYRAL), "feast": lambda: run(feast, FEAST)}, ROUNDS)
        same = _same_values(root)
    medians = {name: {figure: each["median"] for figure, each in figures.items()} for name, figures in results.items()}
    write(
        "lake_asof",
        {
            "examples": EXAMPLES,
            "features": FEATURES,
            "results": results,
            "join_to_feast": round(medians["feast"]["join_s"] / medians["gyral"]["join_s"], 1),
            "with_reading_to_feast": round(medians["feast"]["with_reading_s"] / medians["gyral"]["with_reading_s"], 1),
            **same,
        },
    )


def _write_tables(root: Path) -> None:
    chance = np.random.default_rng(0)
    kind = pa.timestamp("us", tz="UTC")

    def subjects(count: int) -> pa.Array:
        return pa.array([f"u{number}" for number in chance.integers(0, SUBJECTS, count)])

    def times(count: int) -> pa.Array:
        seconds = chance.choice(90 * 86_400, count, replace=False)
        return pa.array(START + 1_000_000 * seconds).cast(kind)

    happened = times(FEATURES)
    columns = {"subject": subjects(FEATURES), "event_time": happened, "ingest_time": happened}
    columns |= {"value": pa.array(np.arange(FEATURES)), "other": pa.array(chance.random(FEATURES))}
    pq.write_table(pa.table(columns), root / "features.parquet")
    examples = {"subject": subjects(EXAMPLES), "event_time": times(EXAMPLES), "row": pa.array(np.arange(EXAMPLES))}
    pq.write_table(pa.table(examples), root / "examples.parquet")


def _same_values(root: Path) -> dict[str, object]:
    ours = pq.read_table(root / "gyral.parquet", columns=["row", "value", "other"]).sort_by("row")
    theirs = pq.read_table(root / "feast.parquet", columns=["row", "value", "other"]).sort_by("row")
    value = theirs["value"].cast(pa.float64()).fill_null(-1).to_numpy()
    mine = ours["value"].cast(pa.float64()).fill_null(-1).to_numpy()
    rows = {"gyral": ours.num_rows, "feast": theirs.num_rows}
    same = ours.num_rows == theirs.num_rows and bool(np.array_equal(np.nan_to_num(value, nan=-1), mine))
    return {"rows": rows, "identical_values": same, "examples_without_a_value": int((mine < 0).sum())}


if __name__ == "__main__":
    main()
