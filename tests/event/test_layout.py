import pytest

from gyral.errors import ConfigError, InputError
from gyral.event import layout as layouts

RETAIL = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"]


def choose(columns, name="", mapping=None, time_format=""):
    return layouts.choose(columns, name, mapping or {}, time_format, "x.csv")


def test_known_files_need_no_map():
    assert choose(RETAIL).name == "online_retail"
    assert choose(["user_id:token", "item_id:token", "rating:float", "timestamp:float"]).repeats is False
    envelope = choose(["subject", "object", "event_time", "country", "other"])
    assert envelope.name == "envelope" and envelope.columns["country"] == "country" and "other" not in envelope.columns


def test_a_map_wins_and_knows_no_dirt():
    layout = choose(RETAIL, mapping={"subject": "CustomerID", "object": "StockCode", "time": "InvoiceDate"})
    assert layout.name == "mapped" and layout.rules == ()


@pytest.mark.parametrize(
    ("mapping", "what"),
    [
        ({"subject": "CustomerID", "object": "StockCode"}, "lacks `time`"),
        ({"subjekt": "CustomerID", "object": "StockCode", "time": "InvoiceDate"}, "`subjekt`"),
    ],
)
def test_an_incomplete_map_is_refused(mapping, what):
    with pytest.raises(ConfigError) as caught:
        choose(RETAIL, mapping=mapping)
    assert what in caught.value.what and caught.value.hint


def test_a_missing_column_is_named_with_the_nearest():
    with pytest.raises(InputError) as caught:
        choose(RETAIL, mapping={"subject": "CustomerId", "object": "StockCode", "time": "InvoiceDate"})
    assert "did you mean `CustomerID`?" in caught.value.hint
    with pytest.raises(InputError) as caught:
        choose(["a", "b"])
    assert "--map" in caught.value.hint
