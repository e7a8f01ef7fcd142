"""Appends, compactions, tags and clean-ups in any order, by two handles of one table, against a list."""

import tempfile
from datetime import timedelta
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


class LakeMachine(RuleBasedStateMachine):
    @initialize()
    def make(self):
        self.folder = tempfile.TemporaryDirectory()
        self.lake = Lake(Path(self.folder.name))
        self.snapshot = self.lake.open("events")
        self.stale = self.snapshot
        self.ids, self.tags, self.count = [], {}, 0

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
        assert newest.facts.rows == len(self.ids) and newest.offsets == ({"p": self.count} if self.ids else {})
        for version, ids in self.tags.values():
            assert self.lake.snapshot("events", version).read(["event_id"])["event_id"].to_pylist() == ids

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


LakeMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLakeAgainstAList = LakeMachine.TestCase
