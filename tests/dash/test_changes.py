"""The stream that says that a page is out of date, over real sockets, and the policy that lets its script run."""

import base64
import hashlib
import http.client
import json
import re
import time

import pytest

from gyral.dash import changes
from gyral.dash.export import export
from gyral.dash.pages import app


@pytest.fixture
def served(project, overview, serve_pages, monkeypatch):
    """The pages behind gyral's own server, which looks for changes often."""
    monkeypatch.setattr(changes.Changes.__init__, "__defaults__", (0.02,))
    with serve_pages(app(project, overview)) as serving:
        yield serving


def follow(address):
    """Connection and answer of a stream."""
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=10)
    connection.request("GET", "/changes")
    return connection, connection.getresponse()


def state(answer):
    """The next state that a stream tells."""
    while True:
        line = answer.readline()
        assert line, "the stream has ended"
        if line.startswith(b"data: "):
            return line[6:].strip().decode()


def test_a_change_is_told_once_and_the_page_says_which_state_it_shows(project, served):
    _, address, _ = served
    connection, answer = follow(address)
    assert answer.getheader("content-type") == "text/event-stream" and answer.getheader("cache-control") == "no-store"
    first = state(answer)
    page = http.client.HTTPConnection(address.split("/")[2], timeout=10)
    page.request("GET", "/runs/1")
    assert f'data-changes="../changes" data-state="{first}"' in page.getresponse().read().decode()
    told = [first]
    for run, file in ((25, "metrics.jsonl"), (3, "lineage.json"), (25, "metrics.jsonl")):
        with open(project / f"runs/{run}/{file}", "a") as lines:
            lines.write("\n")
        told.append(state(answer))
    assert len(set(told)) == 4
    (project / "models/online_retail@7").mkdir()
    assert state(answer) not in told
    page.close()
    connection.close()


def test_so_many_pages_are_followed_and_one_that_is_left_makes_room(served):
    _, address, _ = served
    streams = [follow(address) for _ in range(changes.MAX_STREAMS)]
    assert {answer.status for _, answer in streams} == {200}
    connection, refused = follow(address)
    assert refused.status == 503 and refused.getheader("retry-after") == "60"
    assert json.loads(refused.read())["hint"] == "reload the page to see what is new"
    connection.close()
    for stream, answer in streams:
        answer.close()
        stream.close()
    until = time.monotonic() + 10
    while (again := follow(address))[1].status != 200:
        again[0].close()
        assert time.monotonic() < until
    again[1].close()
    again[0].close()


def test_a_stop_of_the_server_ends_the_stream_and_waits_for_nobody(served):
    server, address, on_loop = served
    connection, answer = follow(address)
    state(answer)
    began = time.monotonic()
    assert on_loop(server.stop(15)) == 0, "no connection had to be cut off"
    assert time.monotonic() - began < 10 and answer.read().strip() == b""
    connection.close()


def test_only_the_script_of_the_digest_may_run_and_a_file_has_none(project, overview, ask, tmp_path):
    dash = app(project, overview)
    page = ask(dash, "/runs/1")
    scripts = re.findall(r"<script>(.*?)</script>", page.text, re.S)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert len(scripts) == 1 and policy["script-src"] == f"'sha256-{digest}'" and policy["connect-src"] == "'self'"
    for answer in ("/plan", "/compare", "/search?q=int8", "/runs/99"):
        assert "<script" not in ask(dash, answer).text, "a page that was asked for stays as it was asked"
    export(project, overview, tmp_path / "out")
    assert not [file for file in (tmp_path / "out").rglob("*.html") if "<script" in file.read_text()]
