"""Sessions for events whose source names none: what a subject does until it does nothing for a while.

A session is named by its subject and the time of its first event, `SUBJECT/MICROSECONDS`, so it has the same name in every
version in which it begins the same, and two sessions never share one. Sessions that a source names stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.curate.kept import Kept


def fill(kept: Kept, gap_s: float) -> dict[str, Any]:
    """Give every row without a session one; rows must be in order of time.

    Parameters
    ----------
    gap_s : a longer pause between two events of a subject begins a new session, seconds; 0: nothing is done.

    Returns
    -------
    Facts: `gap_s`, `made` sessions of `rows` rows; empty when nothing was to be done.
    """
    names = kept.rows["session"].combine_chunks()
    is_missing = names.is_null().to_numpy(zero_copy_only=False)
    if gap_s == 0 or not is_missing.any():
        return {}
    missing = np.flatnonzero(is_missing)
    subjects, times = kept.codes("subject")[missing], kept.times[missing]
    order = np.argsort(subjects, kind="stable")
    who, when = subjects[order], times[order]
    begins = np.r_[True, (who[1:] != who[:-1]) | (np.diff(when) > gap_s * 1e6)]
    start = np.empty_like(when)
    start[order] = when[begins][np.cumsum(begins) - 1]
    known = kept.rows["subject"].combine_chunks().take(pa.array(missing))
    made = pc.binary_join_element_wise(known, pa.array(start).cast(pa.string()), "/")
    filled = pc.replace_with_mask(names, pa.array(is_missing), made)
    kept.rows = kept.rows.set_column(kept.rows.schema.get_field_index("session"), "session", filled)
    return {"gap_s": gap_s, "made": int(begins.sum()), "rows": len(missing)}
