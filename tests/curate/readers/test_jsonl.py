"""Lines of JSON against the standard library's reading, in any ranges, packed or not, whole or broken."""

import gzip
import itertools
import json
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import msgspec
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.curate.readers import Options, open_place, read
from gyral.curate.readers.jsonl import lines
from gyral.curate.stage import DOCUMENT


def rows_of(path, **options):
    place = open_place(str(path), Path("/"), lambda line: None, options=Options(**options))
    found = []
    for part in place.parts:
        for batch in read(part):
            assert batch.schema.equals(DOCUMENT)
            batch.validate(full=True)
            found += batch.to_pylist()
    return found


RECORDS = [
    {"text": "hello é 日本", "url": "https://www.Example.com:8080/a", "language": "pt-BR"},
    {"content": "second", "meta": {"url": "http://b.org/x"}},
    {"id": 1, "nested": {"text": "not this"}},
    {"text": ""},
    {"text": None, "html": "<p>x</p>"},
    {"text": 7},
]


def test_fields_are_found_by_their_usual_names(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    found = rows_of(path)
    assert [row["text"] for row in found] == ["hello é 日本", "second", None, None, None, None]
    assert [row["rejected"] for row in found] == [None, None, "no_text_field", "empty", None, "no_text_field"]
    assert [row["domain"] for row in found[:3]] == ["example.com", "b.org", None]
    assert found[0]["declared"] == "pt" and found[4]["raw"] == b"<p>x</p>" and found[4]["media"] == "html"
    data = path.read_bytes()
    assert [json.loads(data[row["offset"] :].split(b"\n")[0]) for row in found] == RECORDS


def test_a_field_of_the_users(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"props": {"story": {"body": "deep"}}, "text": "other"}\n')
    assert [row["text"] for row in rows_of(path, text="props.story.body")] == ["deep"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=12),
    st.lists(st.integers(0, 300), max_size=4),
    st.booleans(),
)
def test_every_line_is_in_exactly_one_range(found, cuts, ended):
    body = b"\n".join(found) + (b"\n" if ended and found else b"")
    expected, at = [], 0
    for line in body.split(b"\n"):
        if line:
            expected.append((at, line))
        at += len(line) + 1
    edges = [0, *sorted(cut for cut in set(cuts) if 0 < cut < len(body)), len(body)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes(body)
        whole = list(lines(path, "", 0, -1, 1000))
        pieces = [line for begin, end in itertools.pairwise(edges) for line in lines(path, "", begin, end, 1000)]
    assert whole == expected and pieces == expected


def test_a_large_file_is_read_in_ranges_with_one_result(tmp_path):
    path = tmp_path / "a.jsonl"
    with open(path, "w") as file:
        for number in range(9_000):
            file.write(json.dumps({"text": f"{number} " * 900}) + "\n")
    place = open_place(str(path), tmp_path, lambda line: None)
    assert len(place.parts) >= 2 and place.parts[1].begin > 0
    found = [row["text"].split(" ")[0] for part in place.parts for batch in read(part) for row in batch.to_pylist()]
    assert found == [str(number) for number in range(9_000)]
    whole = msgspec.structs.replace(place.parts[0], begin=0, end=-1)
    batches = list(read(whole))
    assert len(batches) > 1 and max(batch.nbytes for batch in batches) < 20 << 20


def test_broken_lines_cost_themselves(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "one"}\n{"text": broken\n\n   \n[1]\n"text"\n{"text": "caf\xe9"}\n{"text": "\\ud800x"}\n{"text": "last"}'
    )
    found = rows_of(path)
    assert [(row["text"], row["rejected"]) for row in found] == [
        ("one", None),
        (None, "corrupt_record"),
        (None, "corrupt_record"),
        (None, "corrupt_record"),
        ("caf�", None),
        ("?x", None),
        ("last", None),
    ]


def test_deep_nesting_is_a_broken_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a", "b": ' + b"[" * 500_000 + b"\n" + b'{"text": "fine"}\n')
    assert [row["rejected"] for row in rows_of(path)] == ["corrupt_record", None]


def test_long_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    long = "x" * 5_000_000
    path.write_text(json.dumps({"text": long}) + "\n" + json.dumps({"text": "y" * 900}) + '\n{"text": "short"}\n')
    assert [len(row["text"]) for row in rows_of(path)] == [5_000_000, 900, 5]
    found = rows_of(path, max_document_bytes=800)
    assert [(row["rejected"], row["text"]) for row in found] == [("too_large", None), ("too_large", None), (None, "short")]


def test_packed_lines(tmp_path):
    body = "".join(json.dumps({"text": f"line {number}"}) + "\n" for number in range(1000)).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(body[:500]) + gzip.compress(body[500:]))
    (tmp_path / "b.json.zst").write_bytes(pa.compress(body, codec="zstd", asbytes=True))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(body)[:-400])
    found = rows_of(tmp_path)
    expected = [f"line {number}" for number in range(1000)]
    by_file = {name: [row for row in found if row["file"] == name] for name in ("a.jsonl.gz", "b.json.zst", "c.jsonl.gz")}
    assert [row["text"] for row in by_file["a.jsonl.gz"]] == expected
    assert [row["text"] for row in by_file["b.json.zst"]] == expected
    cut = [row["text"] for row in by_file["c.jsonl.gz"]]
    assert 100 < len(cut) < 1001 and cut[:-1] == expected[: len(cut) - 1]
    assert by_file["c.jsonl.gz"][-1]["rejected"] == "corrupt_record"


def test_a_bomb_takes_bounded_memory(tmp_path):
    """A quarter of a gigabyte of zeros, then a line: measured in a process of its own."""
    with open(tmp_path / "bomb.jsonl.gz", "wb") as file:
        pack = zlib.compressobj(9, zlib.DEFLATED, 31)
        for _ in range(16):
            file.write(pack.compress(bytes(16 << 20)))
        file.write(pack.compress(b'\n{"text": "fine"}\n') + pack.flush())
    code = f"""
import json, resource, time
from pathlib import Path
from gyral.curate.readers import open_place, read
place = open_place("bomb.jsonl.gz", Path({str(tmp_path)!r}), print)
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
rows = [row for part in place.parts for batch in read(part) for row in batch.to_pylist()]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([[(row["text"], row["rejected"]) for row in rows], peak >> 10, time.process_time() - began]))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    rows, peak_mb, cpu_s = json.loads(told)
    assert rows == [[None, "too_large"], ["fine", None]]
    assert peak_mb < 250 and cpu_s < 30, (peak_mb, cpu_s)
