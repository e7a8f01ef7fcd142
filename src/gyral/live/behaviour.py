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
from gyral.ingest.tombstones import Tombstones
from gyral.train.online import Met

MAX_SCHEMAS = 1_000
"""Names that are remembered; those without a layout are forgotten then."""


class Behaviour:
    """The rules of a project; layouts are known by the events' `schema_id`.

    Parameters
    ----------
    erased : whose rows are dropped.

    Raises
    ------
    ConfigError : a rule cannot be used.
    """

    def __init__(self, config: Config, layout: Layout | None = None, erased: Tombstones | None = None) -> None:
        self._erased = erased or Tombstones()
        self._own = list(config.curate.rules)
        self._apps = config.curate.apps
        self._known: dict[str | None, Layout | None] = {} if layout is None else {layout.schema_id: layout}
        rules.check([*ALWAYS, *self._own])

    def __call__(self, batch: pa.RecordBatch) -> Met:
        """What is kept of a batch, and why the rest is not."""
        places, titles, dropped = self._decided(batch)
        kept = batch.take(pa.array(places))
        times = kept.column("event_time").cast(pa.int64()).to_numpy() // 1_000_000
        return Met(kept.column("subject").to_pylist(), kept.column("object").to_pylist(), titles, times, dropped)

    def places(self, batch: pa.RecordBatch) -> np.ndarray:
        """Rows that are kept, ascending."""
        return self._decided(batch)[0]

    def _decided(self, batch: pa.RecordBatch) -> tuple[np.ndarray, list[str], Counter[str]]:
        ids = batch.column("schema_id").dictionary_encode()
        codes = ids.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        parts = []
        for code in np.unique(codes).tolist():
            places = np.flatnonzero(codes == code)
            rows = batch if len(places) == batch.num_rows else batch.take(pa.array(places))
            kept, dropped, titles = self._of(rows, self._layout(ids.dictionary[code].as_py() if code >= 0 else None))
            parts.append((places[kept], titles, dropped))
        places = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in parts)])
        back = np.argsort(places, kind="stable")
        titles = np.concatenate([np.zeros(0, object), *(part[1] for part in parts)])[back].tolist()
        return places[back], titles, sum((part[2] for part in parts), Counter[str]())

    def _layout(self, schema: str | None) -> Layout | None:
        if schema not in self._known:  # looking a plug-in up costs 20 ms
            if len(self._known) >= MAX_SCHEMAS:  # their names are what devices say they are
                self._known = {name: layout for name, layout in self._known.items() if layout is not None}
            self._known[schema] = layouts.known(schema)
        return self._known[schema]

    def _of(self, rows: pa.RecordBatch, layout: Layout | None) -> tuple[np.ndarray, Counter[str], np.ndarray]:
        """Places that are kept, counts of the reasons of the others, titles of the kept."""
        applied = [*ALWAYS, *(layout.rules if layout else ()), *self._own]
        title = layout.title if layout and layout.title else TITLE
        props = rules.read_props(rows, list(dict.fromkeys([*rules.props_needed(applied), title])))
        reasons = rules.apply(rows, props, applied)
        if self._apps:
            known = pc.is_in(rows.column("app"), value_set=pa.array(self._apps)).to_numpy(zero_copy_only=False)
            reasons = np.where(known, reasons, -1)
        if len(self._erased):
            reasons = np.where(self._erased.has(rows.column("subject")), -2, reasons)
        places = np.flatnonzero(reasons == 0)
        named = {-1: "other_app", -2: "erased"}
        found = Counter(named.get(reason) or applied[reason - 1].reason for reason in reasons[reasons != 0].tolist())
        titles = props[title].cast(pa.string()).take(pa.array(places)).to_pylist()
        return places, found, np.array([each or "" for each in titles], object)
