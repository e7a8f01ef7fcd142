"""Appends, deletions, compactions, tags, promotions and clean-ups in any order, by two handles of one table, against a list."""

import tempfile
from datetime import timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gyral.errors import ConflictError
from gyral.event.schema import TABLES
from gyral.lake import table
from gyral.lake.table import Lake


def rows(ids):
    given = {"event_id": ids, "kind": ["k"] * len(ids), "src_partition": ["p"] * len(ids)}
    zeros = [0] * len(ids)
    columns = {
        field.name: pa.array(given.get(field.name, zeros if not field.nullable else [None] * len(ids)), field.type)
        for field in TABLES["events"]
    }
    return pa.table(columns, schema=TABLES["events"])


def promoted(number, rows):
    return pa.table({"promoted": pa.array([number] * rows.num_rows, pa.int32())})


class LakeMachine(RuleBasedStateMachine):
    @initialize()
    def make(self):
        self.folder = tempfile.TemporaryDirectory()
        self.lake = Lake(Path(self.folder.name))
        self.snapshot = self.lake.open("events")
        self.stale = self.snapshot
        self.ids, self.tags, self.count, self.changed = [], {}, 0, {}

    @rule(size=st.integers(1, 4))
    def append(self, size):
        new = [f"e{self.count + number}" for number in range(size)]
        self.count += size
        self.snapshot = self.snapshot.commit(rows(new), {"p": self.count})
        self.ids = self.ids + new

    @rule()
    def append_by_one_that_slept(self):
        """It planned on a version that is not the newest any more, unless nothing happened since."""
        is_newest = self.stale.version == self.snapshot.version
        try:
            after = self.stale.commit(rows([f"z{self.count}"]), {"p": self.count + 1})
        except ConflictError:
            assert not is_newest
        else:
            assert is_newest
            self.ids = [*self.ids, f"z{self.count}"]
            self.count += 1
            self.snapshot = after

    @rule()
    def fall_asleep(self):
        self.stale = self.snapshot

    @rule()
    def compact(self):
        self.snapshot = self.snapshot.compact()

    @rule(place=st.integers(0, 30), size=st.integers(1, 5))
    def delete(self, place, size):
        gone = self.ids[place : place + size]
        listed = ", ".join(f"'{each}'" for each in ["nobody", *gone])
        self.snapshot, count = self.snapshot.erase(f"event_id IN ({listed})")
        assert count == len(gone)
        self.ids = [each for each in self.ids if each not in gone]

    @rule()
    def write_without_what_was_deleted(self):
        self.snapshot = self.snapshot.rewrite()

    @rule(place=st.integers(0, 30))
    def change_a_column_in_place(self, place):
        for each in self.ids[place : place + 1]:
            self.changed[each] = self.changed.get(each, 0) + 1
            columns = partial(promoted, self.changed[each])
            self.snapshot = self.snapshot.promote(f"event_id = '{each}'", columns, self.snapshot.promoted + 1)

    @rule()
    def pin(self):
        name = f"t{len(self.tags)}"
        self.snapshot.pin(name)
        self.tags[name] = (self.snapshot.version, self.ids)

    @rule()
    def clean(self):
        kept = table.KEEP_VERSIONS_FOR, table.MAX_VERSIONS, table.CLEAN_EVERY_S
        table.KEEP_VERSIONS_FOR, table.MAX_VERSIONS, table.CLEAN_EVERY_S = timedelta(0), 0, 0.0
        try:
            self.lake.maintain("events", self.snapshot)
        finally:
            table.KEEP_VERSIONS_FOR, table.MAX_VERSIONS, table.CLEAN_EVERY_S = kept
        self.stale = self.snapshot  # what it planned on may be gone now

    @invariant()
    def the_newest_version_and_every_tag_read_as_they_should(self):
        if not hasattr(self, "snapshot"):
            return
        newest = self.lake.snapshot("events")
        assert newest.read(["event_id"])["event_id"].to_pylist() == self.ids
        changed = newest.read(["event_id", "promoted"], "promoted IS NOT NULL").to_pylist()
        assert {row["event_id"]: row["promoted"] for row in changed} == {
            each: number for each, number in self.changed.items() if each in self.ids
        }
        assert newest.facts.rows == len(self.ids) and newest.offsets == ({"p": self.count} if self.count else {})
        for version, ids in self.tags.values():
            assert self.lake.snapshot("events", version).read(["event_id"])["event_id"].to_pylist() == ids

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


LakeMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLakeAgainstAList = LakeMachine.TestCase
