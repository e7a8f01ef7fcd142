"""The kinds of runs that plans know, and what each took on the machine of the benchmarks: 2 shared cores of an EPYC.

Slopes and fixed parts are straight lines through two sizes of the bundled purchases (150,000 and 541,909 rows) and, of
documents, through two sets of 181 and 200 pages; another machine and other data are within the factor that each line says. The
loop's were chosen with `benchmarks/plan/verbs.py` in sight: by the rows that a loop brought in, and not by those that all its
turns learned together, its CPU seconds were told 69 % too high.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from gyral.plan.past import Kind, Line
from gyral.run import Lineage

_VERBS = "benchmarks/results/plan_verbs.json, 2 shared cores"


def _lines(fixed_s: float, each_s: float, fixed_bytes: float, each_bytes: float, off: float) -> dict[str, Line]:
    """Time by the clock is at least that of the processor, and differs more between machines."""
    return {
        "time": Line(fixed_s, each_s, "s", 2 * off),
        "processor": Line(fixed_s, each_s, "CPU-s", off),
        "memory": Line(fixed_bytes, each_bytes, "bytes", 1.5),
    }


def _rows(lineage: Lineage) -> float | None:
    rows = lineage.summary.get("rows_in")
    return float(rows) if isinstance(rows, int | float) and rows > 0 else None


def _read_from(kind: str) -> Callable[[Lineage], float | None]:
    def size_of(lineage: Lineage) -> float | None:
        return _rows(lineage) if kind in {each.kind for each in lineage.inputs} else None

    return size_of


def _new_rows(lineage: Lineage) -> float | None:
    """What is there already is not committed again, which takes half the time."""
    rows, known = _rows(lineage), lineage.summary.get("duplicate", 0)
    if not isinstance(known, int | float):
        return None
    return rows if rows and known < 0.1 * rows and any(each.kind == "source" for each in lineage.inputs) else None


def _nominal(lineage: Lineage) -> float | None:
    """What a closed form's budget paid, in nominal seconds of a core."""
    size = lineage.summary.get("nominal_s")
    return float(size) if isinstance(size, int | float) and size > 0 else None


def _bytes_before(lineage: Lineage) -> float | None:
    size = lineage.summary.get("bytes_before")
    return float(size) if isinstance(size, int | float) and size > 0 else None


def _learned(lineage: Lineage) -> float | None:
    """Rows that all turns learned together: each learns what was shown so far."""
    turns = lineage.summary.get("turns")
    if not isinstance(turns, list):
        return None
    events = [each.get("events", 0) for each in turns if isinstance(each, dict)]
    if len(events) < len(turns) or not all(isinstance(each, int | float) for each in events):
        return None
    return float(sum(accumulate(events))) or None


INGEST = Kind("ingest", "ingest", _new_rows, _lines(0.29, 2.6e-6, 384e6, 82.0, 2.0), _VERBS)
CURATE = Kind("curate of events", "curate", _read_from("lake"), _lines(0.1, 3.6e-6, 230e6, 911.0, 2.0), _VERBS)
DOCUMENTS = Kind(
    "curate of documents", "curate", _read_from("source"), _lines(1.4, 1.6e-3, 250e6, 20e3, 5.0),
    "benchmarks/results/curate_pipeline.json, pages of 18 to 174 kB",
)  # fmt: skip
AGAIN = Kind(
    "curate decided anew", "curate", _read_from("dataset"), _lines(1.2, 3.6e-6, 230e6, 240.0, 3.0),
    "benchmarks/results/curate_redecide.json, a million documents",
)  # fmt: skip
TRAIN = Kind(
    "train in closed form", "train", _nominal, _lines(0.6, 0.95, 390e6, 36e6, 1.7),
    "five trainings of the bundled purchases and of ml-100k, 2 shared cores",
)  # fmt: skip
COMPRESS = Kind("compress", "compress", _bytes_before, _lines(0.4, 7.5e-8, 233e6, 13.4, 3.0), _VERBS)
LOOP = Kind("loop", "loop", _learned, _lines(16.0, 4.6e-5, 790e6, 881.0, 3.0), f"loop_close.json; {_VERBS}")
KINDS = (INGEST, CURATE, DOCUMENTS, AGAIN, TRAIN, COMPRESS, LOOP)
