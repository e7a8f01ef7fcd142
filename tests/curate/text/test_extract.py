"""The stage `extract`: what becomes of each form, reasons, and pages that are meant to hurt, with time and memory measured."""

import json
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.config import Config
from gyral.curate.readers.rows import Row, Rows
from gyral.curate.text.extract import REASONS, Extract
from gyral.curate.text.shape_kernel import MOST_ATTRIBUTES, MOST_DEPTH, shape


def batch_of(*rows):
    collected = Rows()
    for media, raw in rows:
        collected.add(Row("a", 0, media, raw=raw) if isinstance(raw, bytes) else Row("a", 0, media, text=raw))
    return collected.take()


ARTICLE = """<!doctype html><html><head><title>T</title><script>var hidden = 1;</script></head><body>
<nav><a href=/>Home</a> <a href=/b>Blog</a></nav>
<article><h1>Große Überschrift</h1><p>{}</p><p>Second paragraph.</p></article>
<footer>Imprint and privacy</footer></body></html>"""
BODY = "This is the first paragraph of an article, long enough to be found. " * 5


def test_each_form_gives_its_text():
    batch = batch_of(
        ("html", ARTICLE.format(BODY).encode()),
        ("mallard", b"<page><title>T</title><p>P</p></page>"),
        ("text", "Grüße".encode("utf-16")),
        ("text", "given before"),
        ("text", "also"),
        ("image", b"\x89PNG"),
    )
    out = Extract()(batch)
    texts = out["text"].to_pylist()
    assert "Große Überschrift" in texts[0] and BODY.strip() in texts[0] and "Second paragraph." in texts[0]
    assert "hidden" not in texts[0] and "Imprint" not in texts[0] and "Blog" not in texts[0]
    assert texts[1:] == ["T\n\nP", "Grüße", "given before", "also", None]
    assert out["extract_failed"].null_count == 6
    assert out.schema.names[:-1] == batch.schema.names


def test_all_that_a_page_shows():
    text = Extract(main_content=False)(batch_of(("html", ARTICLE.format(BODY).encode())))["text"][0].as_py()
    assert "Imprint" in text and "hidden" not in text


def test_every_failure_has_its_reason_and_its_limit():
    out = Extract("resiliparse")(
        batch_of(
            ("html", b"<html><body></body></html>"),
            ("html", bytes(range(256)) * 50),
            ("text", b"   \n "),
            ("mallard", b"<page>"),
            ("html", b"<div>" * 2_000 + b"deep"),
            ("html", b"<p " + b" ".join(b"a%d=1" % number for number in range(3_000)) + b">wide"),
        )
    )
    assert out["extract_failed"].to_pylist() == [
        "no_text",
        "binary",
        "no_text",
        "broken_xml",
        "too_deep",
        "too_many_attributes",
    ]
    assert out["text"].null_count == 6
    limits = Extract().limits(Config())
    assert [limit.reason for limit in limits] == list(REASONS)
    columns = {"extract_failed": out["extract_failed"]}
    dropped = [[limit.reason for limit in limits if value in limit.threshold] for value in limits[0].value(columns).to_pylist()]
    assert [len(reasons) for reasons in dropped] == [1] * 6


def test_nothing_to_extract_costs_nothing():
    batch = batch_of(("text", "a"), ("text", "b"))
    out = Extract()(batch)
    assert out["text"].equals(batch["text"]) and out["extract_failed"].null_count == 2


def depth_by_stack(html: bytes) -> int:
    """An oracle for plain markup: elements open at once, by a list."""
    import re

    open_elements, deepest = [], 0
    for closing, name in re.findall(rb"<(/?)([a-z]+)>", html):
        if closing:
            if name in open_elements[-64:]:
                while open_elements.pop() != name:
                    pass
        else:
            open_elements.append(name)
            deepest = max(deepest, len(open_elements))
    return deepest


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"<div>", b"</div>", b"<b>", b"</b>", b"<span>", b"</span>", b"text"]), max_size=300))
def test_depth_against_a_plain_stack(pieces):
    html = b"".join(pieces)
    assert shape(np.frombuffer(html, np.uint8))[0] == depth_by_stack(html)


def shape_of(html: bytes):
    return shape(np.frombuffer(html, np.uint8))


def test_what_does_not_nest():
    assert shape_of(b"<p>a" * 5_000)[0] == 0
    assert shape_of(b"<ul>" + b"<li>a" * 5_000 + b"</ul>")[0] == 1
    assert shape_of(b"<br/><img src=a><hr>" * 100)[0] == 0
    assert shape_of(b"<svg><path/><path/></svg>" * 100)[0] == 1
    assert shape_of(b"<!-- " + b"<div>" * 5_000 + b" --><div></div>")[0] == 1
    assert shape_of(b"<script>" + b"'<div>';" * 5_000 + b"</script><div>")[0] == 1
    assert shape_of(b"<script>" + b"'<div>';" * 5_000)[0] == 0
    assert shape_of(b"<div title='<div><div>'>")[0] == 1
    assert shape_of(b"a < b && c <3 <")[0] == 0
    assert shape_of(b"<div>" * 10_000)[0] == MOST_DEPTH + 1
    assert shape_of(b'<a b=1 c="x y z" d>')[1] == 3
    assert shape_of(b"<a " + b"x " * 10_000 + b">")[1] > MOST_ATTRIBUTES
    assert shape_of(b'<img src="data:' + b"A " * 10_000 + b'">')[1] == 1
    assert shape_of(b"") == (0, 0)


HOSTILE = {
    "nested": "b'<div>' * 4_000_000",
    "nested and closed": "(b'<div>' * 500 + b'x' + b'</div>' * 500) * 800",
    "unclosed formats": "b'<a href=x><b><i><font>' * 800_000",
    "unclosed script": "b'<p>shown</p><script>' + b'var a = 1;' * 1_900_000",
    "zeros": "bytes(20_000_000)",
    "zeros between": "b'<p>a\\0b</p>' * 1_500_000",
    "a million rows": "b'<table>' + b'<tr><td>1' * 1_000_000",
    "attributes": "b'<p ' + b' '.join(b'a%d=1' % n for n in range(1_500_000)) + b'>hi'",
    "brackets": "b'<' * 20_000_000",
    "comment": "b'<!--' + b'-' * 19_000_000",
    "entities": "b'&amp;' * 4_000_000",
    "selects": "b'<select><option>' * 1_200_000",
    "lists": "b'<ul><li>' * 2_400_000",
    "random": "__import__('random').Random(1).randbytes(20_000_000)",
    "random text": "bytes(b % 96 + 32 for b in __import__('random').Random(1).randbytes(5_000_000))",
}
RUN = """
import json, resource, sys, time
import pyarrow as pa
from gyral.curate.readers.rows import Row, Rows
from gyral.curate.text.extract import Extract
rows = Rows()
rows.add(Row("a", 0, "html", raw=b"<p>x</p>"))
Extract()(rows.take())
rows.add(Row("a", 0, "html", raw={page}))
batch = rows.take()
began = time.process_time()
out = Extract()(batch)
print(json.dumps([time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    out["extract_failed"][0].as_py(), out["text"][0].as_py() and out["text"][0].as_py()[:20]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_twenty_megabytes_of_anything_end_in_bounded_time(name):
    done = subprocess.run(
        [sys.executable, "-c", RUN.replace("{page}", HOSTILE[name])], capture_output=True, text=True, timeout=120, check=True
    )
    cpu_s, peak_mb, failed, text = json.loads(done.stdout)
    print(f"{name}: {cpu_s:.2f} CPU s, {peak_mb} MB, {failed}, {text!r}")
    assert cpu_s < 30 and peak_mb < 2_000
    assert (failed is None) != (text is None)


def test_the_rest_of_a_batch_does_not_suffer():
    good = ARTICLE.format(BODY).encode()
    began = time.process_time()
    out = Extract()(batch_of(("html", good), ("html", b"<div>" * 1_000_000), ("html", good)))
    assert [text is not None for text in out["text"].to_pylist()] == [True, False, True]
    assert time.process_time() - began < 5
    assert isinstance(out, pa.RecordBatch)
