"""Documents through the log and the lake: they come out as they were read, and what people said of answers beside them."""

import json

import pyarrow as pa
import pytest

from gyral.config import Config
from gyral.curate import readers
from gyral.curate.readers.lake import FIRST_SAID, find, rejected
from gyral.curate.stage import DOCUMENT
from gyral.curate.store import key_of
from gyral.errors import InputError
from gyral.event.codec import encode_payload
from gyral.event.wire import check_json, to_columns
from gyral.ingest.documents import to_events
from gyral.ingest.drain import Drain
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog

NOW_US = 1_700_000_000_000_000
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))


def a_place(folder):
    """Pages in HTML, another encoding and text, and a picture with two captions."""
    folder.mkdir()
    (folder / "a.html").write_bytes("<p>Grüße aus der Tiefsee.</p>".encode())
    (folder / "b.html").write_bytes("<p>Grüße aus der Tiefsee.</p>".encode("latin-1"))
    (folder / "c.txt").write_text("What the gyre carries comes back.")
    (folder / "lines.jsonl").write_text("\n".join(json.dumps({"text": f"Line number {number}."}) for number in range(5)))
    return folder


def brought_in(lake, log, events):
    partition = log.free_partition("ingest")
    log.append(partition, f"batch {log.end(partition)}", encode_payload(events), events.num_rows)
    Drain.of(lake, log, Config()).run()


def events_of(*rows):
    body = json.dumps([{"event_time": NOW_US // 1_000_000, **row} for row in rows]).encode()
    return to_columns(check_json(body).events, NOW_US)


@pytest.fixture
def there(tmp_path):
    """A lake, and its log."""
    lake = Lake(tmp_path)
    with SqliteLog(lake.log_folder) as log:
        yield lake, log


def rows(place):
    return [row for part in place.parts for batch in readers.read(part) for row in batch.to_pylist()]


def test_they_come_out_as_they_were_read(there, tmp_path):
    lake, log = there
    place = readers.open_place(str(a_place(tmp_path / "pages")), tmp_path, print)
    for part in place.parts:
        for batch in readers.read(part):
            brought_in(lake, log, to_events(batch, place.name))

    def told(all_rows):
        names = ("file", "offset", "media", "domain", "declared", "raw", "text")
        return sorted(tuple(str(row[name]) for name in names) for row in all_rows)

    found = find(lake, "lake:pages")
    assert told(rows(found)) == told(rows(place)) and found.kind == "text" and len(rows(place)) == 8
    assert rows(find(lake, "lake:")) == rows(found)
    with pytest.raises(InputError, match="no documents of `others`"):
        find(lake, "lake:others")


def test_more_is_new_parts_and_what_was_there_has_its_name_still(there, tmp_path):
    lake, log = there
    place = readers.open_place(str(a_place(tmp_path / "pages")), tmp_path, print)
    batches = [batch for part in place.parts for batch in readers.read(part)]
    brought_in(lake, log, to_events(batches[0], "pages"))
    before = [key_of(part, "r") for part in find(lake, "lake:").parts]
    brought_in(lake, log, to_events(batches[1], "pages"))
    brought_in(lake, log, to_events(batches[1], "pages"))
    after = [key_of(part, "r") for part in find(lake, "lake:").parts]
    assert after[: len(before)] == before and len(after) == len(before) + 1
    assert len(rows(find(lake, "lake:"))) == sum(batch.num_rows for batch in batches[:2]), "the same again is nothing new"


def test_a_picture_is_stored_once_and_comes_with_every_caption(there):
    lake, log = there
    row = {"offset": 0, "media": "image", "url": None, "domain": "set", "raw": PNG, "rejected": None, "file": "set/1f994.png"}
    captions = [("de", "Igel"), ("fr", "hérisson"), ("ja", "ハリネズミ")]
    batch = [{**row, "offset": number, "declared": language, "text": text} for number, (language, text) in enumerate(captions)]
    events = to_events(pa.RecordBatch.from_pylist(batch, DOCUMENT), "emoji")
    assert events.num_rows == 1
    brought_in(lake, log, events)
    found = find(lake, "lake:")
    assert found.kind == "pairs"
    assert [(each["declared"], each["text"], each["raw"]) for each in rows(found)] == [(*each, PNG) for each in captions]


def test_what_people_said_makes_rows_once_it_answers_what_was_asked(there):
    lake, log = there
    picture = {"file": "s/a.png", "offset": -1, "media": "image", "raw": PNG, "text": "x", "declared": "en"}
    batch = pa.RecordBatch.from_pylist([{name: picture.get(name) for name in DOCUMENT.names}], DOCUMENT)
    brought_in(lake, log, to_events(batch, "s"))

    def said(number, verdict, request, **more):
        props = {"request_id": request, "verdict": verdict, **{name: more.pop(name) for name in ("text",) if name in more}}
        return {"event_id": f"f{number}", "kind": f"feedback_{verdict}", "subject": "u", "props": props, **more}

    answer = {"event_id": "q1", "kind": "search", "subject": "u", "props": {"query": "a spiny animal", "language": "en"}}
    feedback = [
        said(1, "chosen", "q1", object="s/a.png"),
        said(2, "chosen", "never asked", object="s/a.png"),
        said(3, "corrected", "q1", text="It is a hedgehog.", object="s/a.png"),
        said(4, "rejected", "q1", object="s/b.png"),
        said(5, "rejected", "never asked", object="s/c.png"),
    ]
    brought_in(lake, log, events_of(answer, *feedback))
    found = rows(find(lake, "lake:"))
    told = [
        (row["file"], row["media"], row["text"]) for row in found if row["offset"] >= FIRST_SAID or "feedback" in row["file"]
    ]
    assert told == [("s/a.png", "image", "a spiny animal"), ("feedback/s/a.png", "text", "It is a hedgehog.")]
    assert rejected(lake) == {"s/b.png": 1} and len(found) == 3
