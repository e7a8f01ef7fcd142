"""Texts of documents that have just come in: what `gyral curate` keeps of the same ones, where none is compared with others."""

import pytest

from gyral import config as configs
from gyral.curate import readers
from gyral.curate.arriving import texts
from gyral.curate.documents import curate
from gyral.event.codec import encode_payload
from gyral.ingest.documents import to_events
from gyral.ingest.drain import Drain
from gyral.lake import documents
from gyral.lake.arrivals import newer
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
from gyral.run import Run

PAGE = "<html><body><article><h1>{0}</h1><p>{1}</p></article></body></html>"
PARAGRAPH = (
    "The gyre turns slowly, and what it carries comes back another day, as many people who live at the coast have seen. "
    "They walk along the beach in the morning and find what the night has left, and some of them write it down. "
    "Nobody knows where all of it was before. A shoe was seen three times in seven years. It had not changed much. "
    "The water had kept the colour of its laces, and that is how it was known again by those who had found it first."
)


@pytest.fixture
def there(tmp_path):
    """A project whose lake has pages in HTML, Latin-1 and text, one of them twice, one with an address, one without text."""
    pages = tmp_path / "pages"
    pages.mkdir()
    for number in range(4):
        (pages / f"{number}.html").write_text(PAGE.format(f"Page {number}", f"{PARAGRAPH} It was day {number}."))
    (pages / "latin.html").write_bytes(PAGE.format("Grüße", f"Grüße aus der Tiefsee. {PARAGRAPH}").encode("latin-1"))
    (pages / "copy.html").write_text(PAGE.format("Page 3", f"{PARAGRAPH} It was day 3."))
    (pages / "mail.txt").write_text(f"{PARAGRAPH} Write to ann.miller@acme-shipping.com if you have seen it.")
    (pages / "few.txt").write_text("word " * 200)
    (pages / "none.html").write_text("<html><body></body></html>")
    root = tmp_path / "project"
    lake = Lake(root)
    place = readers.open_place(str(pages), tmp_path, print)
    with SqliteLog(lake.log_folder) as log:
        for part in place.parts:
            for batch in readers.read(part):
                events = to_events(batch, "pages")
                log.append("a", f"batch {log.end('a')}", encode_payload(events), events.num_rows)
        Drain.of(lake, log, configs.Config()).run()
    return root


@pytest.mark.parametrize(
    "sets",
    [
        ["curate.stages=['extract', 'repair', 'digest']"],
        ["curate.stages=['extract', 'repair', 'digest', 'statistics', 'privacy']"],
        ["curate.stages=['extract', 'repair', 'digest']", "dedup.exact=false"],
    ],
)
def test_they_are_those_that_curate_keeps(there, sets):
    config = configs.load(there, [*sets, "curate.source=lake:", "dedup.near=false"])
    notes = []
    found = texts(newer(Lake(there), "", {}, 100).rows, config, notes.append)
    with Run.start(there, "curate", config) as run:
        made = curate(there, "pages", config, run)
    assert found == [text for batch in documents.batches(made) for text in batch.column("text").to_pylist()]
    assert any("Grüße aus der Tiefsee" in text for text in found) and not any("<p>" in text for text in found)
    assert sum("day 3" in text for text in found) == (2 if "dedup.exact=false" in sets else 1)
    if "privacy" in sets[0]:
        assert len(found) == 6 and not any("ann.miller" in text or text.startswith("word word") for text in found)


def test_stages_that_compare_documents_are_left_out_and_nothing_gives_nothing(there):
    config = configs.load(there, ["curate.stages=['extract', 'digest', 'minhash', 'paragraphs']"])
    rows = newer(Lake(there), "", {}, 100).rows
    assert len(texts(rows, config, print)) == 7
    assert texts(rows.slice(0, 0), config, print) == []


def test_pictures_and_what_cannot_be_read_have_no_text(tmp_path, arrive):
    arrive(tmp_path, ["a caption"], media="image", raw="iVBORw0KGgo=")
    arrive(tmp_path, ["no base64"], raw="a")
    lake = arrive(tmp_path, ["a text"])
    config = configs.load(tmp_path, ["curate.stages=['extract', 'digest']"])
    rows = newer(lake, "", {}, 100).rows
    assert rows.num_rows == 3 and texts(rows, config, print) == ["a text"]
