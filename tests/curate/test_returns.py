import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.config.sections import Rule
from gyral.curate.interactions import Until
from gyral.curate.returns import quantities_of
from gyral.curate.returns_kernel import LOOK, undo

MAP = {"subject": "user", "object": "item", "time": "at", "session": "bill"}
RULES = [{"reason": "return", "field": "props.units", "op": "<", "value": 0}]
T0 = 1_600_000_000


def oracle(events):
    """Plain Python: what is left of (pair, quantity, is_return) in order, with a list of open purchases for each pair."""
    left, open_ = [], {}
    for number, (pair, quantity, is_return) in enumerate(events):
        left.append(quantity)
        stack = open_.setdefault(pair, [])
        if not is_return:
            stack.append(number)
            continue
        same = [each for each in stack[-LOOK:] if left[each] == quantity]
        if same:
            left[same[-1]], left[number] = 0, 0
            stack.remove(same[-1])
            continue
        while stack and left[number] > 0:
            units = min(left[stack[-1]], left[number])
            left[stack[-1]] -= units
            left[number] -= units
            if left[stack[-1]] <= 0:
                stack.pop()
    return left


EVENTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.booleans()), max_size=60)


@given(EVENTS)
@settings(deadline=None, max_examples=300)
def test_the_kernel_leaves_what_plain_python_leaves(events):
    events = sorted(events, key=lambda each: each[0])
    pairs, quantities, is_return = (
        np.array([each[at] for each in events], dtype=kind) for at, kind in enumerate((int, float, bool))
    )
    assert undo(pairs, quantities, is_return).tolist() == oracle(events)
    units = [sum(quantity for _, quantity, back in events if back == which) for which in (False, True)]
    left = undo(pairs, quantities, is_return)
    assert units[0] - left[~is_return].sum() == units[1] - left[is_return].sum()  # what is taken back was given


def test_many_open_purchases_of_other_quantities_are_not_searched_through():
    events = [(0, 3, False)] + [(0, 2, False)] * (LOOK + 5) + [(0, 3, True), (0, 2, True)]
    pairs, quantities, is_return = (
        np.array([each[at] for each in events], dtype=kind) for at, kind in enumerate((int, float, bool))
    )
    assert undo(pairs, quantities, is_return).tolist() == oracle(events)


def test_the_quantity_is_what_a_rule_compares_with_zero():
    rules = [
        Rule("return", "session", "matches", "^C"),
        Rule("return", "props.Quantity", "<=", 0),
        Rule("bad", "props.P", "<", 0),
    ]
    assert quantities_of(rules) == ["Quantity"]


def bought(units, at, item="i", user="u", bill=None):
    return {"user": user, "item": item, "at": T0 + at, "bill": bill, "units": units}


def make(project, tmp_path, rows):
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["bill"] = pa.array(columns["bill"], pa.string())
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    project.ingest(tmp_path / "x.parquet", ingest__map=MAP)


def test_a_purchase_that_was_taken_back_is_dropped_by_name(project, tmp_path):
    rows = [
        bought(5, 0), bought(2, 1), bought(-5, 2),  # the one of the same quantity, though not the newest
        bought(4, 3, "j"), bought(-1, 4, "j"),  # part of it: it stays
        bought(-1, 5, "k"), bought(1, 6, "k"),  # taken back before it was bought: another one, which is not here
        bought(3, 7, "l"), bought(2, 8, "l"), bought(-4, 9, "l"),  # the newest, and part of the one before
        bought(1, 10, "m", "v"), bought(-1, 11, "m", "w"),  # somebody else's
        bought(1, 12, "n"), bought(-1, 12, "n"),  # at one time
        bought(1, 13, "o"), bought(2, 14, "o"), bought(-1, 15, "o"), bought(-1, 15, "o"),  # told twice
    ]  # fmt: skip
    make(project, tmp_path, rows)
    made = project.curate(curate__returns="match", curate__rules=RULES)
    told = [made.why(project.lake, each["event_id"])["reason"] for each in project.events(["event_id"])]
    back = "returned"
    expected = [back, None, "return", None, "return", "return", None, None, back, "return", None, "return", back, "return"]
    assert told == [*expected, back, None, "return", "return"]
    assert made.manifest.dropped == {"return": 8, "returned": 4}
    facts = {"returns": 7, "matched": 5, "partly": 0, "unmatched": 2, "purchases": 4}
    assert made.manifest.facts == {"returns": facts}
    assert json.loads((made.folder / "manifest.json").read_text())["facts"]["returns"] == facts
    assert "quantity" not in made.read().column_names
    dropped = project.curate(curate__returns="drop", curate__rules=RULES)
    assert dropped.manifest.dropped == {"return": 8} and dropped.manifest.facts == {}
    kept = project.curate(curate__returns="keep", curate__rules=RULES)
    assert kept.manifest.dropped == {"duplicate": 1} and kept.manifest.rows_kept == 17


def test_a_return_that_is_not_known_yet_takes_nothing_back(project, tmp_path):
    make(project, tmp_path, [bought(1, 0), bought(1, 5, "j"), bought(-1, 10)])
    ids = {row["event_time"].timestamp() - T0: row["event_id"] for row in project.events(["event_id", "event_time"])}
    flags = {"curate__returns": "match", "curate__rules": RULES}
    then = project.curate(until=Until((T0 + 9) * 1_000_000, frozenset()), **flags)
    assert then.manifest.dropped == {} and then.manifest.rows_kept == 2
    at_that_time = project.curate(until=Until((T0 + 10) * 1_000_000, frozenset()), **flags)
    assert at_that_time.manifest.dropped == {}
    shown = project.curate(until=Until((T0 + 10) * 1_000_000, frozenset([ids[10]])), **flags)
    assert shown.manifest.dropped == {"return": 1, "returned": 1}


def test_the_returns_of_the_bundled_shop_are_those_of_plain_python(project, retail):
    project.ingest(retail)
    manifest = project.curate(curate__returns="match").manifest
    import re

    product = re.compile(r"\d{5}[A-Za-z]{0,2}$")
    seen, events = set(), []
    for number, line in enumerate(pq.read_table(retail).to_pylist()):
        is_return = line["InvoiceNo"][0] in "Cc" or line["Quantity"] <= 0
        if line["CustomerID"] is None or tuple(line.values()) in seen:
            continue
        if not is_return and (line["UnitPrice"] <= 0 or not product.match(line["StockCode"])):
            continue
        seen.add(tuple(line.values()))
        key = (line["CustomerID"], line["StockCode"])
        events.append((key, line["InvoiceDate"], is_return, number, abs(line["Quantity"])))
    events.sort(key=lambda each: (str(each[0]), each[1], each[2], each[3]))
    left = oracle([(key, units, is_return) for key, _, is_return, _, units in events])
    gone = sum(not event[2] and rest == 0 for event, rest in zip(events, left, strict=True))
    backs = [(event[4], rest) for event, rest in zip(events, left, strict=True) if event[2]]
    assert manifest.dropped["returned"] == gone > 3_000
    assert manifest.facts["returns"] == {
        "returns": len(backs),
        "matched": sum(rest == 0 for _, rest in backs),
        "partly": sum(0 < rest < units for units, rest in backs),
        "unmatched": sum(rest == units for units, rest in backs),
        "purchases": gone,
    }


@pytest.mark.parametrize("on", ["local://threads=4", "local://processes=2"])
def test_matching_is_the_same_on_every_engine(project, small_shop, on):
    project.ingest(small_shop)
    flags = {"curate__returns": "match", "curate__session_gap_s": 1800.0, "curate__split": {"test": "7d"}}
    assert project.curate(**flags).manifest.shards == project.curate(on=on, **flags).manifest.shards
