"""Facts counted commit by commit against counting all rows at once in plain Python."""

import itertools
from collections import Counter

import msgspec
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.event.schema import TABLES
from gyral.lake import facts as module
from gyral.lake.facts import Facts, counted

MINUTE = 60_000_000
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["phone", "tv", None]),
        st.integers(0, 10**6),
        st.sampled_from([-(10**9), -MINUTE, 0, MINUTE, MINUTE + 1, 60 * MINUTE, 1441 * MINUTE, 10**12]),
        st.sampled_from(["de", "ja", None]),
    ),
    max_size=12,
)


def table(rows):
    given = {
        "event_id": [str(number) for number in range(len(rows))],
        "event_time": [happened for _, happened, _, _ in rows],
        "ingest_time": [happened + delay for _, happened, delay, _ in rows],
        "event_time_adjusted": [happened + delay if delay < -5 * MINUTE else None for _, happened, delay, _ in rows],
        "kind": ["k"] * len(rows),
        "device_class": [device for device, *_ in rows],
        "language": [language for *_, language in rows],
    }
    return pa.table({field.name: pa.array(given.get(field.name, [None] * len(rows)), field.type) for field in TABLES["events"]})


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS, max_size=5))
def test_counting_on_is_counting_all(batches):
    facts = Facts()
    for batch in batches:
        facts = counted(facts, table(batch))
        facts = msgspec.json.decode(msgspec.json.encode(facts), type=Facts)
    rows = [row for batch in batches for row in batch]
    assert facts.rows == len(rows)
    assert facts.counts.get("language", {}) == dict(Counter(row[3] for row in rows if row[3]))
    assert set(facts.devices) == {row[0] or "unknown" for row in rows}
    for name, device in facts.devices.items():
        mine = [row for row in rows if (row[0] or "unknown") == name]
        ahead = [row for row in mine if row[2] < -5 * MINUTE]
        trusted = [row for row in mine if row not in ahead]
        edges = itertools.pairwise([0, 1, 60, 24 * 60, 7 * 24 * 60, 10**9])
        late = [sum(low * MINUTE < row[2] <= high * MINUTE for row in trusted) for low, high in edges]
        late[0] += sum(row[2] <= 0 for row in trusted)
        assert (device.ahead, device.late) == (len(ahead), late)
        assert device.newest_us == max((row[1] for row in trusted), default=None)


def test_drift_is_the_share_that_would_have_to_change():
    day = 86_400_000_000
    rows = [("phone", day * number, 0, "de") for number in range(5) for _ in range(4)]
    facts = counted(Facts(), table([*rows, *[("phone", day * 5, 0, "de")], *[("tv", day * 5, 0, "ja")] * 3]))
    told = module.drift(facts)
    assert told["language"] == {"distance": 0.75, "value": "de"} or told["language"] == {"distance": 0.75, "value": "ja"}
    assert told["kind"]["distance"] == 0.0 and list(facts.days) == sorted(facts.days) and len(facts.days) == 6
    assert module.drift(Facts()) == {}


def test_a_clock_ten_years_ahead_does_not_move_the_watermark():
    years = 10 * 365 * 86_400_000_000
    facts = counted(Facts(), table([("tv", 1_000, 0, None), ("tv", years, -years, None)]))
    assert facts.devices["tv"] == module.Device([1, 0, 0, 0, 0], 1, 0, 1_000)


def test_device_classes_without_end_are_counted_together(monkeypatch):
    monkeypatch.setattr(module, "MAX_VALUES", 3)
    facts = counted(Facts(), table([(f"d{number}", 1, 0, None) for number in range(9)]))
    assert len(facts.devices) == 4 and sum(facts.devices["…"].late) == 6
