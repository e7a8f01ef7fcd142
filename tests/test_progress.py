import io

from gyral.progress import Meter, Screen, duration, number


def test_numbers_and_durations_are_written_for_people():
    assert [number(value) for value in (1234567, 0.12345, 5.0, "x", 12345.6)] == [
        "1,234,567",
        "0.1235",
        "5",
        "x",
        "12,346",
    ]
    assert [duration(value) for value in (0.42, 42, 185, 7620)] == ["0.4 s", "42 s", "3 min 05 s", "2 h 07 min"]


def test_a_record_has_rate_and_time_left():
    records = []
    meter = Meter("ingest", "rows", 100, lambda record, last: records.append((record, last)))
    meter.update(50)
    meter.update(100, ndcg=0.5)
    record, is_last = records[-1]
    assert is_last and record.done == 100 and record.rate > 0 and record.eta == 0
    assert "100 of 100 rows" in record.line() and "ndcg 0.5" in record.line()


def test_json_progress_is_json_lines(monkeypatch):
    monkeypatch.delenv("GYRAL_NO_PROGRESS")
    import json

    stream = io.StringIO()
    screen = Screen(stream, as_json=True)
    meter = Meter("train", "steps", 2, lambda record, last: screen.show(record, last))
    meter.update(2)
    screen.note("done")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0]["verb"] == "train" and lines[0]["unit"] == "steps" and lines[1] == {"note": "done"}


def test_quiet_when_asked(monkeypatch):
    monkeypatch.setenv("GYRAL_NO_PROGRESS", "1")
    stream = io.StringIO()
    screen = Screen(stream)
    meter = Meter("train", "steps", 2, lambda record, last: screen.show(record, last))
    meter.update(2)
    screen.note("a result")
    assert stream.getvalue() == "a result\n"


def test_a_closed_stderr_never_stops_the_work():
    stream = io.StringIO()
    screen = Screen(stream)
    stream.close()
    screen.note("x")
    assert screen.is_broken


def test_more_than_was_expected_is_no_negative_time_left():
    records = []
    meter = Meter("ask", "requests", 10, lambda record, last: records.append(record))
    meter.update(12)
    assert records[-1].total == 12 and records[-1].eta in (0.0, None)
