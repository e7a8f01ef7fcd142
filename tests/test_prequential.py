"""What is asked and what counts: the parts of the prequential table that a loop over the shop does not reach."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from gyral.event.schema import EVENT
from gyral.ingest.files import Slice
from gyral.prequential import MAX_RECENT_BYTES, Models, Truth, learned, met_since, score_turn
from gyral.served import Answers


def a_slice(rows):
    """Rows of (id, time, subject, object)."""
    columns = ("event_id", "event_time", "subject", "object")
    events = [{**dict(zip(columns, row, strict=True)), "ingest_time": 0, "kind": "x"} for row in rows]
    return Slice(pa.Table.from_pylist(events, schema=EVENT), pa.table({}))


FIRST = a_slice([("1", 10, "a", "x"), ("2", 20, "b", "x"), ("3", 30, "a", "y")])
SECOND = a_slice([("4", 30, "b", "y"), ("5", 30, "c", "x"), ("6", 40, "a", "z")])
ROWS = pa.concat_tables([part.events.select(["subject", "object", "event_time"]) for part in (FIRST, SECOND)])


def test_at_the_time_of_the_cut_a_subject_is_on_its_own_side():
    assert met_since(ROWS, FIRST) == {"b": ["y"], "c": ["x"], "a": ["z"]}
    assert learned([FIRST, SECOND], 1).shown == {"3"} and learned([FIRST, SECOND], 1).time_us == 30
    assert learned([FIRST, SECOND], 2).shown == {"6"}


def test_what_is_sent_along_fits_into_a_request():
    names = [f"{number:04d}" + "é" * 200 for number in range(600)]
    later = a_slice([(str(number), 100 + number, "a", name) for number, name in enumerate(names)])
    rows = pa.concat_tables([ROWS, later.events.select(["subject", "object", "event_time"])])
    sent = met_since(rows, FIRST)["a"]
    assert sent == names[-len(sent) :] and 0 < sum(len(name.encode()) + 3 for name in sent) <= MAX_RECENT_BYTES


class Stub:
    """Answers `x`, `y`, `z` to everybody and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def ask(self, requests, model):
        self.asked.append((model, requests))
        items = [{"object": name} for name in "xyz"]
        return Answers([{"items": items}] * len(requests), [0.5] * len(requests), 1.0)


@pytest.mark.parametrize("repeats", [True, False])
def test_where_nothing_repeats_what_was_met_already_is_neither_right_nor_wrong(repeats):
    """`a` met x, y and z before, `b` only x and y: without repeats only b's z and the newcomer's x are left to be found."""
    truth = Truth(9, ["a", "b", "d"], [None, "fr", None], [["x", "y"], ["x", "z"], ["x"]])
    data = SimpleNamespace(read=lambda: ROWS, manifest=SimpleNamespace(repeats=repeats))
    served = Stub()
    scored = score_turn(truth, data, FIRST, Models("new", "old"), served)
    quality = scored.quality
    assert (quality["hit_at_10"]["looped"], quality["recall_at_10"]["looped"]) == (1.0, 1.0)
    assert (quality["num_acted"], quality["num_asked"], quality["num_known"]) == (9, 3, 2 if repeats else 1)
    third = 1 / 2  # the discount of the third place
    assert quality["known"]["ndcg_at_10"]["looped"] == pytest.approx(
        (1 + (1 + third) / (1 + 0.6309297535714575)) / 2 if repeats else third, abs=1e-6
    )
    assert (scored.p99_ms, scored.first_at) == (500.0, 1.0)
    (looped, plain), (frozen, recent), (popular, baseline) = served.asked
    assert (looped, frozen, popular) == ("new", "old", "new")
    assert plain == [
        {"subject": "a", "k": 10},
        {"subject": "b", "k": 10, "context": {"country": "fr"}},
        {"subject": "d", "k": 10},
    ]
    assert [each.get("context") for each in recent] == [{"recent": ["z"]}, {"country": "fr", "recent": ["y"]}, None]
    assert {each["model"] for each in recent} == {"frozen"} and {each["model"] for each in baseline} == {"popularity"}


def test_over_nobody_there_is_no_number():
    data = SimpleNamespace(read=lambda: ROWS, manifest=SimpleNamespace(repeats=True))
    scored = score_turn(Truth(0, [], [], []), data, FIRST, Models("new", "old"), Stub())
    assert scored.quality["ndcg_at_10"] == {"looped": None, "frozen": None, "popularity": None} and scored.p99_ms is None
