"""The generator against a server whose times are known, and against a server that stands still."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import numpy as np
import pytest

from gyral.bench import arrivals, points
from gyral.bench.drive import Drive, Target
from gyral.bench.record import CUT, MALFORMED, OK, REFUSED, RESET, TIMEOUT, UNREACHED
from gyral.bench.serve import _probe
from gyral.bench.traffic import Heads, assembled
from gyral.errors import ServeError, UsageError
from gyral.serve.client import ask_many
from gyral.serve.http1.answer import Response
from gyral.serve.http1.request import Route
from gyral.serve.http1.server import Server, listen, new_loop


def taken_s(made, record):
    return np.array(record.done_s) - made.due_s


def queue_s(due_s, each_s):
    """Seconds in a queue of one server that takes `each_s` for each: Lindley's recursion."""
    free, taken = 0.0, []
    for at in due_s:
        free = max(free, at) + each_s
        taken.append(free - at)
    return np.array(taken)


@pytest.mark.parametrize("busy", [0.5, 0.8])
def test_latency_is_that_of_a_queue_with_the_same_arrivals(drive, busy):
    """A busy machine can only make it longer: of three runs the one that was disturbed least is compared."""
    due_s = arrivals.due("poisson", 50 * busy, 2.0, seed=5)
    expected = queue_s(due_s, 0.020)
    means = []
    while len(means) < 3 and not (means and min(means) < 1.15 * expected.mean()):
        made, record = drive("/work?20", due_s)
        told = taken_s(made, record)
        assert set(record.outcome) == {OK} and (told > expected - 1.5e-3).all()
        means.append(told.mean())
    assert expected.mean() - 1e-3 < min(means) < 1.15 * expected.mean() + 3e-3


def test_one_connection_waits_in_the_generator_and_the_wait_counts(drive):
    made, record = drive("/work?20", np.zeros(10), connections=1)
    np.testing.assert_allclose(np.sort(taken_s(made, record)), 0.02 * np.arange(1, 11), atol=0.05, rtol=0.3)
    assert record.most_open == record.num_connections == 1
    point = points.operating_point(made, record, 0.2, late_ms=1e3, max_late=0)
    assert point.waited_share > 0.8 and point.since_sent.max_ms < 0.5 * point.latency.max_ms


def test_a_server_that_stands_still_shows_in_p99_and_a_closed_loop_hides_it(drive, known):
    def stall(after_s, for_s):
        time.sleep(after_s)
        os.kill(known.pid, signal.SIGSTOP)
        time.sleep(for_s)
        os.kill(known.pid, signal.SIGCONT)

    thread = threading.Thread(target=stall, args=(0.8, 1.0))
    thread.start()
    made, record = drive("/work?0.5", arrivals.due("constant", 150, 3.0, 0))
    thread.join()
    told = taken_s(made, record)
    assert np.percentile(told, 99) > 0.8 and 0.18 < (told > 0.1).mean() < 0.5

    thread = threading.Thread(target=stall, args=(0.4, 1.0))
    thread.start()
    _, closed = asyncio.run(ask_many(known.url, [{}] * 600, "/work?2", concurrency=4))
    thread.join()
    assert max(closed) > 0.8 and np.percentile(closed, 99) < 0.4


@pytest.mark.parametrize(
    ("path", "outcome"), [("/503", REFUSED), ("/close", RESET), ("/garbage", MALFORMED), ("/hang", TIMEOUT)]
)
def test_each_request_has_one_outcome_and_it_is_what_happened(drive, path, outcome):
    made, record = drive(path, np.arange(12) / 200, timeout_s=0.4)
    assert list(record.outcome) == [outcome] * 12
    if outcome == TIMEOUT:
        assert (taken_s(made, record) >= 0.4).all() and (taken_s(made, record) < 2.0).all()


def test_nobody_is_there(drive):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        _, record = drive("/", np.arange(20) / 1_000, port=taken.getsockname()[1])
    assert list(record.outcome) == [UNREACHED] * 20


def test_connections_are_made_anew_after_so_many_requests(drive):
    _, record = drive("/work?0", np.arange(21) / 150, connections=1, per_connection=5)
    assert record.num_connections == 5 and set(record.outcome) == {OK}


def test_tokens_are_timed_from_when_the_request_was_due(drive):
    made, record = drive("/stream?60,20,5", np.arange(6) / 20, is_stream=True)
    assert list(record.tokens) == [5] * 6 and set(record.outcome) == {OK} and len(record.gaps_s) == 24
    first = np.array(record.first_s) - made.due_s
    assert (first > 0.055).all() and np.median(first) < 0.12
    assert np.median(record.gaps_s) == pytest.approx(0.02, abs=0.01)
    assert (taken_s(made, record) >= 0.135).all()


@pytest.mark.parametrize("path", ["/cut", "/told"])
def test_a_stream_without_its_end_or_with_an_error_is_no_answer(drive, path):
    _, record = drive(path, np.zeros(3), is_stream=True)
    assert list(record.outcome) == [CUT] * 3


def test_a_generator_that_is_held_up_says_so(drive):
    made, record = drive("/work?0", np.arange(100) / 200, on_tick=lambda *_: time.sleep(0.05))
    point = points.operating_point(made, record, 0.5, late_ms=15, max_late=0.05)
    assert not point.is_valid and point.late_share > 0.1
    assert point.latency.max_ms > 30  # what it was late by is in the latency


def test_addresses():
    assert Target.of("127.0.0.1:80") == Target("127.0.0.1", 80, False) and Target.of("http://[::1]:9/a/").prefix == "/a"
    assert Target.of("https://x.org").port == 443 and Target.of("http://[::1]:9").authority == "[::1]:9"
    for url in ("ftp://x", "http://", "http://x:99999999", ""):
        with pytest.raises(UsageError, match="no address"):
            Target.of(url)
    with pytest.raises(UsageError, match="password") as refused:
        Target.of("http://me:secret@127.0.0.1:80")
    assert "secret" not in str(refused.value)


def test_a_drive_costs_little(drive):
    due_s = arrivals.due("poisson", 2_000, 1.0, 6)
    _, record = drive("/work?0", due_s)
    assert record.cpu_s / len(record) < 500e-6  # 30 µs on an idle machine: 33,000 requests/s on a core


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no `openssl` to make a certificate with")
def test_a_server_is_asked_over_tls_and_its_certificate_is_checked(tmp_path, monkeypatch):
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(tmp_path / "cert", tmp_path / "key")

    async def run(is_known):
        if is_known:
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
        with contextlib.closing(listen("127.0.0.1", 0)) as sock:
            server = Server(None, {"/echo": Route(lambda asked: Response(asked.body), ("POST",))}, tls=own)
            await server.start(sock)
            due_s, zeros = np.arange(20) / 200, np.zeros(20, np.uint32)
            rng = np.random.default_rng(0)
            made = assembled(due_s, ["/echo"], zeros, [b"{}"], zeros, Heads("x", {}), "", "", rng)
            target = Target.of(f"https://127.0.0.1:{sock.getsockname()[1]}")
            try:
                if is_known:
                    await asyncio.to_thread(_probe, target, made)
                else:
                    with pytest.raises(ServeError, match="certificate"):
                        await asyncio.to_thread(_probe, target, made)
                return await Drive(made, target).run()
            finally:
                await server.stop(1)

    for is_known, outcome in ((False, UNREACHED), (True, OK)):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            assert list(runner.run(run(is_known)).outcome) == [outcome] * 20
