"""Heads that llhttp lets pass."""

import pytest

from gyral.http import Refused
from gyral.serve.http1.head import decoded, judge

HOST = (b"host", b"x")


@pytest.mark.parametrize(
    ("version", "lines", "stays"),
    [
        ("1.1", [], True),
        ("1.1", [b"close"], False),
        ("1.1", [b"Keep-Alive, Close"], False),
        ("1.1", [b"x", b"close"], False),
        ("1.0", [], False),
        ("1.0", [b"keep-alive"], True),
        ("1.0", [b"keep-alive, close"], False),
    ],
)
def test_who_stays(version, lines, stays):
    headers = [HOST, *((b"connection", line) for line in lines)]
    assert judge(b"GET", b"/", version, headers).keep_alive is stays


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", b""),
        (b"/a%20b?c=d?e", b"/a%20b", b"c=d?e"),
        (b"http://x/y?z", b"/y", b"z"),
        (b"HTTPS://x:1", b"/", b""),
        (b"http://x?z", b"/", b"z"),
        (b"//x/y", b"//x/y", b""),
    ],
)
def test_targets(target, path, query):
    head = judge(b"GET", target, "1.1", [HOST])
    assert (head.path, head.query) == (path, query)


NO_TARGETS = [b"x", b"ftp://x/", b"*", b"/a#b", b"http://x#b", b"http:///a", b"http://?a", b"http://a:b@x/", b"http://x\\@y/"]


@pytest.mark.parametrize("target", NO_TARGETS)
def test_targets_that_are_none(target):
    with pytest.raises(Refused) as told:
        judge(b"GET", target, "1.1", [HOST])
    assert told.value.status == 400


def test_the_host_of_an_absolute_target_counts_and_not_the_header():
    for headers in ([HOST, (b"x", b"y")], [(b"x", b"y")]):
        judge(b"GET", b"http://a.example:80/b", "1.1" if len(headers) == 2 else "1.0", headers)
        assert sorted(headers) == [(b"host", b"a.example:80"), (b"x", b"y")]


@pytest.mark.parametrize("name", [b"authorization", b"origin", b"content-type", b"content-encoding", b"sec-fetch-site"])
def test_what_means_two_things_is_refused(name):
    judge(b"POST", b"/", "1.1", [HOST, (name, b"a"), (b"accept", b"a"), (b"accept", b"b")])
    with pytest.raises(Refused, match=f"two `{name.decode()}`"):
        judge(b"POST", b"/", "1.1", [HOST, (name, b"a"), (name, b"a")])


def test_options_may_ask_for_all():
    assert judge(b"OPTIONS", b"*", "1.1", [HOST]).path == b"*"


def test_lengths():
    assert judge(b"POST", b"/", "1.1", [HOST, (b"content-length", b"12")]).length == 12
    assert judge(b"POST", b"/", "1.1", [HOST, (b"transfer-encoding", b"Chunked")]).length == -1
    for lines in (
        [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"1"), (b"content-length", b"1")],
        [(b"content-length", b"-1")],
        [(b"content-length", b"\xb2")],
    ):
        with pytest.raises(Refused):
            judge(b"POST", b"/", "1.1", [HOST, *lines])


def test_paths_as_text():
    assert decoded(b"/%C3%A9%ff") == "/é\ufffd"
    assert decoded(b"/plain") == "/plain"
