"""`gyral bench serve` as it is called, against a real server: what it says, what it keeps, and logged traffic."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

import httpx
import pytest

from gyral import config as configs
from gyral.bench import cpu
from gyral.bench.replay import events
from gyral.bench.serve import serve
from gyral.lake.table import Lake
from gyral.run import Run, read_lineage, read_metrics

from .. import verbs


def gyral(*words, code=0):
    done = verbs.gyral(*words, timeout=120)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def server(shop):
    command = [sys.executable, "-P", "-m", "gyral", "serve", "shop-int8", "--root", str(shop.root), "--port", "0", "--json"]
    with verbs.popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        yield json.loads(child.stdout.readline())
        child.terminate()
        child.wait(20)


def asked(root, more_than):
    """Logged (subject, props.k, country), once there are more than so many and no more come."""
    rows = []
    for _ in range(100):
        last, rows = rows, events(Lake(root)).to_pylist()
        if len(rows) >= more_than and len(rows) == len(last):
            break
        time.sleep(0.25)
    return Counter((row["subject"], json.loads(row["props"])["k"], row["country"]) for row in rows)


@pytest.mark.slow
def test_a_load_a_ramp_and_its_traffic_again(server, shop):
    words = ("bench", "serve", "--root", shop.root, "--json", "--set", "bench.late_ms=500")
    told = json.loads(gyral(*words, "--rate", 80, "--seconds", 2, "--deadlines", "900ms", "--usd-per-core-hour", ".05").stdout)
    assert told["url"] == server["url"] and told["cpu_source"] == f"process {server['pid']}"
    assert told["num_ok"] == told["num_requests"] == told["latency"]["num_samples"] > 100 and told["is_valid"]
    assert 0 < told["goodput"] <= 1 and told["errors"] == {}
    assert 20e-6 < told["cpu_s_per_request"] < 0.02
    assert told["usd_per_1000"] == pytest.approx(1_000 * told["cpu_s_per_request"] * 0.05 / 3_600)
    assert told["latency"]["p999_ms"] is None and told["latency"]["p50_ms"] >= told["since_sent"]["p50_ms"]

    before = asked(shop.root, told["num_requests"] + 1)
    known = {subject for subject, _, _ in before}
    assert known <= {row["subject"] for row in shop.events(["subject"])}  # people of the lake, not numbers
    sent = sum(before.values())
    assert sent > told["num_requests"] + 1  # the probe, and the second before that does not count
    again = json.loads(gyral(*words, "--route", "replay", "--speed", 3).stdout)
    assert again["num_ok"] == again["num_requests"] == sent and again["arrivals"] == "logged"
    after = asked(shop.root, 2 * sent + 1)
    first, *_ = (after - before - before).items() or [None]
    assert after == before + before + Counter([first[0]])  # each as it was, and the first once more, to see that it is answered

    points = [line for line in read_metrics(shop.root, told["run"]) if line["type"] == "operating_point"]
    assert len(points) == 1 and points[0]["holds"] and points[0]["cpu_s_per_request"] == told["cpu_s_per_request"]
    assert read_lineage(shop.root, told["run"]).summary["p99_ms"] == told["latency"]["p99_ms"]
    page = httpx.get(f"{server['url']}/runs/{told['run']}").text
    twin = httpx.get(f"{server['url']}/runs/{told['run']}.json").json()["load"]
    drawn = re.findall(r'data-series="latency" data-x="([^"]+)" data-y="([^"]+)"', page)
    assert [(float(x), float(y)) for x, y in drawn] == [tuple(point) for point in twin["curve"]]
    assert sum(number for _, _, number in twin["histogram"]) == told["num_requests"]

    ramp = json.loads(gyral(*words, "--arrivals", "ramp", "--rate", 200, "--seconds", 0.5, "--deadlines", "400ms").stdout)
    rates = [step["offered_per_s"] for step in ramp["steps"]]
    assert rates == sorted(rates) and len(rates) >= 3
    held = [
        step for step in ramp["steps"] if step["goodput"] >= 0.99 and step["achieved_per_s"] >= 0.95 * step["offered_per_s"]
    ]
    assert ramp["knee_per_s"] == (held[-1]["offered_per_s"] if held else None)


@pytest.mark.slow
def test_what_cannot_be_is_told_before_a_load_is_sent(shop, known, tmp_path):
    (tmp_path / "bodies.jsonl").write_text('{"a": 1}\nnot json\n')
    for words, what in [
        ((), "none serves this project now"),
        (("http://127.0.0.1:9",), "nobody answers at 127.0.0.1:9"),
        ((known.url, "--route", "bodies", "--path", "/x"), "no bodies are named"),
        ((known.url, "--route", "bodies", "--path", "/x", "--bodies", tmp_path / "bodies.jsonl"), "bodies.jsonl, line 2"),
        ((known.url, "--route", "replay"), "no traffic was logged"),
    ]:
        done = gyral("bench", "serve", "--root", shop.root, *words, code=2 if "named" in what and "none" not in what else 1)
        assert (what in done.stderr and "hint:" in done.stderr) or "line 2" in what


def test_cpu_seconds_of_a_process_and_its_children():
    burn = "import time\nend = time.process_time() + .15\nwhile time.process_time() < end: pass"
    twice = f"for _ in range(2): subprocess.run([sys.executable, '-S', '-c', {burn!r}])"
    code = f"import subprocess, sys\n{twice}\nprint(1, flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        taken = cpu.of_tree(child.pid)
        of_system = sum(os.sysconf("SC_CLK_TCK") ** -1 * int(each) for each in _stat(child.pid)[11:15])
        child.stdin.close()
    assert 0.28 <= taken < 1.5 and taken == pytest.approx(of_system, abs=0.03)
    assert cpu.of_tree(child.pid) is None


def _stat(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()


def test_cpu_seconds_that_a_server_tells(known):
    assert cpu.of_metrics(known.url) == 3.5 and cpu.of_metrics("http://127.0.0.1:9") is None
    assert cpu.meter(known.url, 0)[1] == "/metrics" and cpu.meter(known.url, known.pid)[1] == f"process {known.pid}"
    assert cpu.is_same("http://127.0.0.1:80/a", "127.0.0.1:80") and not cpu.is_same("http://a:1", "http://a:2")


@pytest.mark.slow
def test_a_ramp_finds_what_a_server_can_do(known, tmp_path):
    """One after the other for 5 ms each is 200/s; a busy machine only takes from it, so of three ramps the best counts."""
    (tmp_path / "bodies").write_text("{}")
    flags = {"url": known.url, "route": "bodies", "bodies": str(tmp_path / "bodies"), "path": "/work?5", "arrivals": "ramp"}
    flags |= {"rate": 50.0, "seconds": 2.0, "deadlines": "300ms", "warmup_s": 0.0, "late_ms": 1e3}
    config = configs.load(tmp_path, [], {f"bench.{name}": value for name, value in flags.items()})
    knees = []
    while len(knees) < 3 and max(knees, default=0) < 110:
        with Run.start(tmp_path, "bench", config) as run:
            told = serve(tmp_path, config, run)
        knees.append(told["knee_per_s"] or 0)
        assert told["limited_by"] == "server" and max(each["offered_per_s"] for each in told["steps"]) > 200
        assert all(each["achieved_per_s"] < 201 for each in told["steps"])
    assert 110 <= max(knees) < 212
