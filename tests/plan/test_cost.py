"""A bill: its parts, how sure it is, and what moves it; the loop's volume and cadence."""

import math
import re

import pytest

from gyral.dash.tornado import tornado as drawn
from gyral.errors import UsageError
from gyral.plan.cost import NAMES, PRICES, bill, day, tornado
from gyral.plan.figure import Figure
from gyral.plan.freshness import cadence, volume
from gyral.plan.product import inverse, product

FIGURES = {
    **PRICES,
    "cores": Figure(1_000.0, "cores", "measured", "", 900.0, 1_200.0),
    "held_share": Figure(0.7, "", "assumed", "", 0.5, 1.0),
    "ingest_cores": Figure(50.0, "cores", "measured", "", 45.0, 60.0),
    "requests": Figure(1e9, "1/day", "assumed", "", 5e8, 2e9),
    "answer_bytes": Figure(2_000.0, "bytes", "measured"),
    "lake_bytes": Figure(2e11, "bytes/day", "measured", "", 1e11, 3e11),
    "keep_days": Figure(365.0, "days", "counted"),
    "trainings": Figure(24.0, "1/day", "assumed", "", 12.0, 48.0),
    "device_hours": Figure(1.0, "h", "measured", "", 0.8, 1.3),
}


def test_a_bill_adds_up():
    told = bill(FIGURES)
    assert set(FIGURES) == set(NAMES)
    assert told.parts["serving"].value == pytest.approx(24 * 1_000 * 0.7 * 0.04)
    assert told.parts["answers"].value == pytest.approx(1e9 * 2_000 / 1e9 * 0.05)
    assert told.parts["storage"].value == pytest.approx(200 * 365 * 0.023 / 30.4)
    assert told.total.value == pytest.approx(sum(each.value for each in told.parts.values()))
    assert told.total.by == "assumed" and told.total.low < told.total.value < told.total.high
    assert bill(FIGURES) == told and len(told.as_json()["swings"]) == 5


def test_the_interval_is_that_of_one_figure_where_one_is_unsure():
    sure = {name: each._replace(low=math.nan, high=math.nan) for name, each in FIGURES.items()}
    told = bill({**sure, "cores": Figure(1_000.0, "", "measured", "", 500.0, 3_000.0)})
    assert told.parts["serving"].low == pytest.approx(336, rel=0.03) and told.parts["serving"].high == pytest.approx(
        2_016, rel=0.03
    )
    assert told.parts["training"].low == told.parts["training"].value == told.parts["training"].high
    assert [each.name for each in told.swings] == ["cores"]


def test_what_moves_the_total_most_comes_first():
    found = tornado(FIGURES)
    widths = [each.width for each in found]
    assert widths == sorted(widths, reverse=True) and "keep_days" not in {each.name for each in found}
    cores = next(each for each in found if each.name == "cores")
    assert cores.at_high - cores.at_low == pytest.approx(24 * 300 * 0.7 * 0.04)
    assert [each.name for each in bill(FIGURES).swings] == [each.name for each in found[:5]]


def test_a_figure_that_lacks_or_lies_is_refused():
    with pytest.raises(UsageError, match="needs `cores`") as caught:
        bill({name: each for name, each in FIGURES.items() if name != "cores"})
    assert "with spare and regions" in caught.value.why
    with pytest.raises(UsageError, match="`cores` is 5 within 6 to 7"):
        bill({**FIGURES, "cores": Figure(5.0, low=6.0, high=7.0)})


def test_a_formula_of_ones_own():
    told = bill({"a": Figure(2.0, low=1.0, high=4.0), "b": Figure(3.0)}, lambda v: {"both": v["a"] * v["b"], "b": v["b"]})
    assert told.total.value == 9 and told.swings[0].at_high == 15 and day is not None


def test_the_tornado_draws_what_was_reckoned():
    told = bill(FIGURES)
    svg = str(drawn(told.swings, told.total.value, title="Usd a day", names=NAMES))
    bars = re.findall(
        r'<rect class="fill-one" x="([\d.]+)%"[^>]*width="([\d.]+)%"[^>]*data-x="(\w+)" data-y="([\d.e+-]+)"', svg
    )
    assert [bar[2] for bar in bars] == [each.name for each in told.swings]
    assert [float(bar[3]) for bar in bars] == pytest.approx([each.width for each in told.swings])
    assert all(float(left) >= 0 and float(left) + float(width) <= 100.01 for left, width, *_ in bars)
    widths = [float(bar[1]) / each.width for bar, each in zip(bars, told.swings, strict=True)]
    assert widths == pytest.approx([widths[0]] * len(widths), rel=1e-2)
    assert svg.count('class="floor"') == 5 and "No assumptions" in str(drawn([], 1.0, title="x"))


def test_figures_multiply_as_independent_factors():
    one, two = Figure(10.0, low=5.0, high=20.0, by="measured"), Figure(4.0, low=2.0, high=8.0, by="sheet")
    both = product("x", "", one, two)
    assert both.value == 40 and both.by == "sheet"
    assert both.high / both.value == pytest.approx(2 ** math.sqrt(2)) and both.value / both.low == pytest.approx(
        2 ** math.sqrt(2)
    )
    assert inverse(one).interval == (0.05, 0.2) and product("", "", one, Figure(0.0)).value == 0


def test_events_of_a_billion_requests():
    told = volume(Figure(1e9, "1/day", "measured"), Figure(3.0, "", "counted"))
    assert told.events.value == 3e9 and told.log_bytes.value == pytest.approx(3e9 * 254)
    assert told.lake_bytes.value == pytest.approx(3e9 * 49.6) and told.cores.value == pytest.approx(3e9 / 86_400 / 210_051)
    assert told.log_bytes.interval == pytest.approx((3e9 * 81, 3e9 * 254)) and told.cores.by == "measured"


def test_the_cadence_costs_least():
    train_s, usd, loss = (
        Figure(600.0, "s", "measured"),
        Figure(5.0, "usd", "sheet", "", 4.0, 8.0),
        Figure(1_000.0, "usd", "assumed"),
    )
    told = cadence(train_s, usd, loss)
    days = told.every_s.value / 86_400
    assert days == pytest.approx(math.sqrt(2 * 5 / 1_000))

    def cost(days):
        return 5 / days + 1_000 * (days / 2)

    assert cost(days) < cost(0.9 * days) and cost(days) < cost(1.1 * days)
    assert told.delay_s.value == pytest.approx(told.every_s.value / 2 + 601.17) and told.every_s.by == "assumed"
    assert told.every_s.low < told.every_s.value < told.every_s.high
    assert cadence(Figure(1e5), usd, loss).every_s.value == 1e5  # it never ends before it has begun
    with pytest.raises(UsageError):
        cadence(train_s, usd, Figure(0.0))
