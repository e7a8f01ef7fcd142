"""The Lake page of a real lake: growth, drift, schemas and clocks, against what was put in."""

import json

from gyral.config import Config
from gyral.config.sections import Device
from gyral.dash.pages import app
from gyral.event.codec import encode_payload
from gyral.event.wire import check_json, to_columns
from gyral.ingest.drain import Drain
from gyral.ingest.schemas import register
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
from gyral.run import Run

DAY_US = 86_400_000_000
START_US = 1_790_000_000_000_000


def test_growth_drift_schemas_and_clocks_are_on_the_page_and_in_its_twin(tmp_path, ask, parse):
    config = Config(devices={"phone": Device(skew_s=60)})
    (tmp_path / "schemas.toml").write_text('[view-2]\nms = "number"\n')
    with Run.start(tmp_path, "ingest", config) as run:
        register(tmp_path, config, run, tmp_path / "schemas.toml")
    lake = Lake(tmp_path)
    with SqliteLog(lake.log_folder) as log:
        for day in range(3):
            now_us = START_US + day * DAY_US
            sent = [
                {"event_id": f"{day}-{number}", "event_time": now_us // 1000 + (10**7 if number == 0 else 0), "kind": "view"}
                | {"subject": "u", "device_class": "phone", "language": "pt" if day == 2 else "de", "schema_id": "view-2"}
                for number in range(10 * (day + 1))
            ]
            log.append("a", str(day), encode_payload(to_columns(check_json(json.dumps(sent).encode()).events, now_us)), 1)
        Drain.of(lake, log, config).run()
    dash = app(tmp_path, lake.overview)
    events = ask(dash, "/lake.json").json()["tables"]["events"]
    assert list(events["days"].values()) == [10, 20, 30]
    assert events["drift"]["language"]["distance"] == 1.0 and events["drift"]["kind"]["distance"] == 0.0
    assert (events["devices"]["phone"]["ahead"], events["devices"]["phone"]["rows"]) == (3, 60)
    text = parse(ask(dash, "/lake").text).text
    for told in ("Growth and drift", "100.0 %", "Registered schemas", "ms: number", "Clock behind", *events["days"]):
        assert told in text, told
