"""Rows of the log → what is learned from, by the rules that `curate` has for interactions.

The same rules of layout and project decide, row by row. What needs the whole dataset (robots by their clocks, returns matched
to purchases, caps) cannot be asked of a stream: the learner limits events of an hour, and returns are dropped, not undone.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.config import Config
from gyral.curate import rules
from gyral.curate.interactions import ALWAYS, TITLE
from gyral.event import layout as layouts
from gyral.event.layout import Layout
from gyral.train.online import Met


class Behaviour:
    """The rules of a project; layouts are known by the events' `schema_id`.

    Raises
    ------
    ConfigError : a rule cannot be used.
    """

    def __init__(self, config: Config, layout: Layout | None = None) -> None:
        self._own = list(config.curate.rules)
        self._apps = config.curate.apps
        self._given = layout
        rules.check([*ALWAYS, *self._own])

    def __call__(self, batch: pa.RecordBatch) -> Met:
        """What is kept of a batch, and why the rest is not."""
        ids = batch.column("schema_id").to_pylist()
        parts = []
        for schema in dict.fromkeys(ids):
            same = np.array([each == schema for each in ids])
            rows = batch if same.all() else batch.filter(pa.array(same))
            parts.append((np.flatnonzero(same), *self._of(rows, self._layout(schema))))
        dropped = sum((part[2] for part in parts), Counter[str]())
        order = np.concatenate([part[0][part[1]] for part in parts]) if parts else np.zeros(0, np.int64)
        titles = np.concatenate([part[3] for part in parts]) if parts else np.zeros(0, object)
        back = np.argsort(order, kind="stable")
        kept = batch.take(pa.array(order[back]))
        times = kept.column("event_time").cast(pa.int64()).to_numpy() // 1_000_000
        return Met(kept.column("subject").to_pylist(), kept.column("object").to_pylist(), titles[back].tolist(), times, dropped)

    def _layout(self, schema: str | None) -> Layout | None:
        if self._given is not None and schema == self._given.schema_id:
            return self._given
        return layouts.known(schema)

    def _of(self, rows: pa.RecordBatch, layout: Layout | None) -> tuple[np.ndarray, Counter[str], np.ndarray]:
        """Places that are kept, counts of the reasons of the others, titles of the kept."""
        applied = [*ALWAYS, *(layout.rules if layout else ()), *self._own]
        title = layout.title if layout and layout.title else TITLE
        props = rules.read_props(rows, list(dict.fromkeys([*rules.props_needed(applied), title])))
        reasons = rules.apply(rows, props, applied)
        if self._apps:
            known = pc.is_in(rows.column("app"), value_set=pa.array(self._apps)).to_numpy(zero_copy_only=False)
            reasons = np.where(known, reasons, -1)
        places = np.flatnonzero(reasons == 0)
        found = Counter(applied[reason - 1].reason if reason > 0 else "other_app" for reason in reasons[reasons != 0].tolist())
        titles = props[title].cast(pa.string()).take(pa.array(places)).to_pylist()
        return places, found, np.array([each or "" for each in titles], object)
