"""Sessions, caps and splits of a million interactions against polars and pandas: the same rows, the same answers.

One million events of 50,000 subjects and 100,000 objects (Zipf, seeded) in order of time. Sessions by a pause of 30 minutes,
the newest three of each subject and object and then the newest hundred of each subject, valid and test of seven days with
their cold subjects and objects. From a table in memory to the columns; each in a process of its own with one thread, in turn;
CPU seconds of the work alone. The answers (sessions, rows over the caps, rows and cold subjects of the parts) are compared.
Command: .venv/bin/python benchmarks/curate/interactions.py (about two minutes)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, peer, write

ROWS, ROUNDS, DAY = 1_000_000, 3, 86_400_000_000

GYRAL = """
import json, sys, time
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from gyral.curate import caps, sessions, splits
from gyral.curate.kept import Kept
rows = pq.read_table(sys.argv[1])
rows = rows.append_column("session", pa.nulls(rows.num_rows, pa.string()))
def work():
    kept = Kept(rows, np.zeros(rows.num_rows, dtype=np.int16), [""])
    made = sessions.fill(kept, 1800.0)["made"]
    over = kept.drop(caps.over(kept.codes("subject", "object"), 3), "over_pair_cap")
    over += kept.drop(caps.over(kept.codes("subject"), 100), "over_cap")
    parts, facts = splits.assign(kept, {"valid": "7d", "test": "7d"})
    splits.column(parts)
    told = [facts[part][fact] for fact in ("rows", "cold_subjects", "cold_objects") for part in ("test", "valid")]
    return [made, over, *told]
"""
POLARS = """
import json, sys, time
from datetime import timedelta
import polars as pl, pyarrow.parquet as pq
rows = pl.from_arrow(pq.read_table(sys.argv[1]))
def work():
    time_, who = pl.col("event_time"), pl.col("subject")
    pause = time_.diff().over(who) > pl.duration(seconds=1800)
    named = rows.with_columns(begins=pause.fill_null(True))
    named = named.with_columns(start=pl.when(pl.col("begins")).then(time_.dt.timestamp("us")))
    start = pl.col("start").forward_fill().over(who)
    named = named.with_columns(session=pl.concat_str(who, pl.lit("/"), start.cast(pl.String)))
    made = named["begins"].sum()
    kept = named.filter(pl.int_range(pl.len()).reverse().over("subject", "object") < 3)
    kept = kept.filter(pl.int_range(pl.len()).reverse().over("subject") < 100)
    end = kept["event_time"].max()
    test = kept.filter(time_ > end - timedelta(days=7))
    before = kept.filter(time_ <= end - timedelta(days=7))
    middle = before["event_time"].max()
    valid, train = before.filter(time_ > middle - timedelta(days=7)), before.filter(time_ <= middle - timedelta(days=7))
    kept = kept.with_columns(split=pl.when(time_ > end - timedelta(days=7)).then(pl.lit("test"))
        .when(time_ > middle - timedelta(days=7)).then(pl.lit("valid")).otherwise(pl.lit("train")))
    def cold(name, part, earlier):
        names = earlier.select(pl.col(name).unique())
        return part.select(pl.col(name).unique()).join(names, on=name, how="anti").height
    told = [test.height, valid.height, cold("subject", test, before), cold("subject", valid, train)]
    told += [cold("object", test, before), cold("object", valid, train)]
    return [int(made), rows.height - kept.height, *told]
"""
PANDAS = """
import json, sys, time
import numpy as np, pandas as pd
rows = pd.read_parquet(sys.argv[1])
def work():
    gap = rows.groupby("subject", sort=False)["event_time"].diff()
    begins = gap.isna() | (gap > pd.Timedelta(seconds=1800))
    micros = rows["event_time"].astype("int64")
    start = micros.where(begins).groupby(rows["subject"], sort=False).ffill().astype("int64")
    named = rows.assign(session=rows["subject"] + "/" + start.astype(str))
    kept = named[named.groupby(["subject", "object"], sort=False).cumcount(ascending=False) < 3]
    kept = kept[kept.groupby("subject", sort=False).cumcount(ascending=False) < 100]
    week, end = pd.Timedelta(days=7), kept["event_time"].max()
    in_test = kept["event_time"] > end - week
    middle = kept["event_time"][~in_test].max()
    in_valid = ~in_test & (kept["event_time"] > middle - week)
    kept = kept.assign(split=np.select([in_test, in_valid], ["test", "valid"], "train"))
    def cold(name, part, earlier):
        return len(set(kept[name][part].unique()) - set(kept[name][earlier].unique()))
    told = [int(in_test.sum()), int(in_valid.sum())]
    for name in ("subject", "object"):
        told += [cold(name, in_test, ~in_test), cold(name, in_valid, ~in_test & ~in_valid)]
    return [int(begins.sum()), len(rows) - len(kept), *told]
"""
CLOCK = """
work()
cpu = time.process_time()
answer = work()
print(json.dumps({"cpu_s": time.process_time() - cpu, "answer": answer}))
"""


def main() -> None:
    rng = np.random.default_rng(0)
    times = np.sort(rng.integers(0, 90 * DAY, ROWS)) + 1_600_000_000_000_000
    subjects, objects = rng.zipf(1.3, ROWS) % 50_000, rng.zipf(1.2, ROWS) % 100_000
    table = pa.table(
        {
            "subject": pa.array(subjects).cast(pa.string()),
            "object": pa.array(objects).cast(pa.string()),
            "event_time": pa.array(times).cast(pa.timestamp("us", tz="UTC")),
        }
    )
    pythons = {
        "gyral": (PYTHON, GYRAL),
        "polars": (peer("polars", ["polars==1.34.0", "pyarrow"]), POLARS),
        "pandas": (peer("pandas", ["pandas==2.3.3", "pyarrow"]), PANDAS),
    }
    environment = os.environ | {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
    found: dict[str, list[float]] = {name: [] for name in pythons}
    answers: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "rows.parquet"))
        pq.write_table(table, path)
        for _ in range(ROUNDS):
            for name, (python, code) in pythons.items():
                done = subprocess.run(
                    [python, "-c", code + CLOCK, path], capture_output=True, text=True, env=environment, check=False
                )
                if done.returncode:
                    raise SystemExit(f"{name}: {done.stderr[-2000:]}")
                told = json.loads(done.stdout.splitlines()[-1])
                found[name].append(round(told["cpu_s"], 4))
                answers[name] = told["answer"]
    if len({json.dumps(answer) for answer in answers.values()}) != 1:
        raise SystemExit(f"the answers differ: {answers}")
    medians = {name: statistics.median(values) for name, values in found.items()}
    write("curate_interactions", {"rows": ROWS, "cpu_s": medians, "all": found, "answer": answers["gyral"]})


if __name__ == "__main__":
    main()
