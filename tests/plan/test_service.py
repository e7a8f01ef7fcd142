"""What a worker needs: from a run under load, from a card, from a sheet, and carried to another machine."""

import json
import subprocess
import sys
import threading
import time
from array import array
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from gyral.bench import points, silence
from gyral.bench.record import OK, REFUSED, Record
from gyral.bench.traffic import Traffic
from gyral.errors import NotFound
from gyral.model.card import Card, Variant
from gyral.plan import service
from gyral.plan.cold import Cold
from gyral.plan.figure import Figure
from gyral.plan.serving import Pod, capacity


def _lines():
    rng = np.random.default_rng(1)
    lines = [{"type": "progress"}]
    for rate, mean in ((400.0, 4.0), (50.0, 2.0)):
        ms = np.sort(rng.gamma(4.0, mean / 4, 4_000))
        nines = np.arange(0.0, 3.6, 0.125)
        curve = [(float(at), float(ms[min(int(len(ms) * (1 - 10**-at)), len(ms) - 1)])) for at in nines]
        latency = {"mean_ms": float(ms.mean()), "num_samples": len(ms)}
        point = {"type": "operating_point", "offered_per_s": rate, "is_valid": True, "load": 0.5, "latency": latency}
        lines += [point, {"type": "load", "curve": curve}]
    return lines, ms


def test_a_run_tells_of_its_lowest_rate():
    lines, ms = _lines()
    work = service.of_lines(lines, "run 7", slope=0.25)
    assert work.alone_s.value == pytest.approx(1e-3 * ms.mean())
    assert work.each_s.value == pytest.approx(0.25 * work.alone_s.value)
    assert work.alone_s.by == "measured" and "run 7: 50/s" in work.alone_s.why
    spread = work.noise.scaled(work.alone_s.value)
    for share in (0.5, 0.9, 0.99):
        assert spread.at(share) == pytest.approx(1e-3 * np.quantile(ms, share), rel=0.03)
    low, high = work.alone_s.interval
    assert low < work.alone_s.value < high < 1.03 * low


def test_what_silence_cost_is_taken_off_and_told():
    """A server of known costs, asked at a low rate: the plan has its seconds when it is awake, and simulates its slowness."""
    rng, truth, warm_s = np.random.default_rng(3), Cold(1.5, 0.005), 6e-4
    due_s = np.cumsum(rng.exponential(1 / 50, 4_000))
    done_s, awake, free = np.empty(4_000), warm_s * rng.lognormal(0, 0.1, 4_000), 0.0
    for at, due in enumerate(due_s):  # one after the other; who waits finds it awake
        done_s[at] = free = max(due, free) + awake[at] * float(truth.factor(np.array([due - free if at else 0.0]))[0])
    record = Record(4_000)
    record.done_s, record.outcome = array("d", done_s), bytearray([OK]) * 4_000
    rows = np.zeros(4_000, np.uint32)
    traffic = Traffic(due_s, rows, rows, np.full(4_000, np.inf), [b""], [b""])
    taken_ms = 1e3 * points.latencies_s(traffic, record)
    latency = {"mean_ms": float(taken_ms.mean()), "num_samples": 4_000}
    point = {"type": "operating_point", "offered_per_s": 50.0, "is_valid": True, "load": 0.5, "latency": latency}
    lines = [point, {"type": "load", "curve": points.curve(taken_ms)}, {"type": "silence", **silence.told(traffic, record)}]
    busier = {**point, "offered_per_s": 400.0}
    work = service.of_lines([*lines, busier, {"type": "load", "curve": points.curve(taken_ms)}], "run 7")
    assert work.alone_s.value == pytest.approx(float(awake.mean()), rel=0.05) and work.alone_s.by == "measured"
    assert "awake; after a long silence it takes 148 % longer" in work.alone_s.why
    assert work.cold.factor(np.array([0.002, 0.02])) == pytest.approx(truth.factor(np.array([0.002, 0.02])), rel=0.06)
    plain = service.of_lines(lines[:2], "run 7")
    assert plain.cold is None and plain.alone_s.value == pytest.approx(1e-3 * latency["mean_ms"])
    assert capacity(Pod(work), 0.02).value > 1.5 * capacity(Pod(plain), 0.02).value  # a busy one is awake
    record.outcome = bytearray([OK]) * 300 + bytearray([REFUSED]) * 3_700
    assert silence.told(traffic, record) is None  # of too few nothing is told


class _Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(0.01)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


def test_a_server_under_load_tells_what_it_takes(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "bodies.jsonl").write_text("{}\n")
    command = [sys.executable, "-m", "gyral", "bench", "serve", f"http://127.0.0.1:{server.server_port}"]
    command += ["--root", str(tmp_path), "--route", "bodies", "--bodies", str(tmp_path / "bodies.jsonl"), "--path", "/"]
    command += ["--rate", "40", "--seconds", "3"]
    try:
        done = subprocess.run([*command, "--set", "bench.max_late=1.0", "--json"], capture_output=True, text=True, timeout=60)
    finally:
        server.shutdown()
        server.server_close()
    told = json.loads(done.stdout.splitlines()[-1])
    work = service.of_run(tmp_path, told["run"])
    assert work.alone_s.value == pytest.approx(1e-3 * told["latency"]["mean_ms"]) and work.alone_s.value >= 0.01
    spread = work.noise.scaled(work.alone_s.value)
    assert spread.at(0.5) == pytest.approx(1e-3 * told["latency"]["p50_ms"], rel=0.1)
    assert work.alone_s.by == "measured" and f"run {told['run']}" in work.alone_s.why


def test_a_run_without_a_valid_point_tells_nothing():
    lines, _ = _lines()
    with pytest.raises(NotFound, match="run 7 has no valid point"):
        service.of_lines([{**each, "is_valid": False} for each in lines], "run 7")


def test_a_card_tells_what_batches_take():
    p50 = {"1": 1.0, "8": 2.4, "32": 7.2}  # .8 + .2 · b
    variant = Variant(to="int8", p50_ms=p50, p99_ms={"1": 1.5, "8": 3.0, "32": 8.0})
    work = service.of_card(Card(family="recommender", model="shop@1", variants=[variant]), "int8")
    assert work.fixed_s.value == pytest.approx(8e-4, rel=1e-3) and work.each_s.value == pytest.approx(2e-4, rel=1e-3)
    assert work.noise.mean == 1.0 and work.noise.at(0.99) / work.noise.at(0.5) == pytest.approx(1.5, rel=0.01)
    assert work.max_batch == 64 and "card of shop@1" in work.alone_s.why
    with pytest.raises(NotFound, match="timed as `int4`") as caught:
        service.of_card(Card(family="recommender", model="shop@1", variants=[variant]), "int4")
    assert "`int8`" in caught.value.hint


def test_a_sheet_is_wide_and_another_machine_wider():
    work = service.of_sheet(0.01, "a page", cv=0.5)
    assert work.alone_s.by == "sheet" and work.alone_s.interval == (0.005, 0.02)
    moved = work.calibrated(Figure(2.0, "", "measured", "probe", 1.8, 2.3))
    assert moved.alone_s.value == pytest.approx(0.02) and moved.alone_s.by == "sheet"
    low, high = moved.alone_s.interval
    assert low < 0.01 and high > 0.04
    known = service.Work(Figure(0.0, "s", "measured"), Figure(0.01, "s", "measured"), work.noise)
    assert known.calibrated(Figure(2.0, "", "measured", "probe")).alone_s.by == "calibrated"
    assert work.scaled(3.0).alone_s.interval == pytest.approx((0.015, 0.06))
