"""A real server process: swaps under load, full stops, kills."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from gyral.config import Config
from gyral.errors import ServeError
from gyral.event.codec import decode_payload
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
from gyral.run import Run, numbers, read_lineage
from gyral.serve.client import Connection, ask_many, wait_for_model
from gyral.served import ServedModel

from .. import verbs


@pytest.fixture(params=[0, pytest.param(2, marks=pytest.mark.slow)], ids=["inline", "workers"])
def start(shop, request):
    """Starts `gyral serve`; the same must hold whoever answers, the server's process or two workers."""
    children = []

    def run(*args):
        command = [
            sys.executable,
            "-m",
            "gyral",
            "serve",
            "shop-int8",
            "--root",
            str(shop.root),
            "--port",
            "0",
            "--json",
            "--set",
            f"serve.workers={request.param}",
            *args,
        ]
        child = verbs.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        children.append(child)
        line = child.stdout.readline()
        assert line, child.stderr.read().decode()
        return child, json.loads(line)["url"]

    yield run
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            pipe.close()


def impressions(root):
    with SqliteLog(root / "lake" / "log") as log:
        return [
            row["event_id"]
            for name in log.partitions()
            if name.startswith("serve")
            for entry in log.read(name, 0)
            for row in decode_payload(entry.payload)["events"].to_pylist()
        ]


def test_swaps_under_load_drop_no_request_and_mix_no_versions(start, shop, publish):
    _, url = start()
    answers = [[] for _ in range(4)]

    async def work(mine, stop):
        connection = Connection(url)
        while not stop.is_set():
            response = await connection.post("/v1/recommend", b'{"subject": "17850"}')
            assert response.status == 200
            mine.append(response.json())
        await connection.close()

    async def load():
        stop = asyncio.Event()
        workers = [asyncio.create_task(work(mine, stop)) for mine in answers]
        for _ in range(10):
            name = await asyncio.to_thread(publish, shop.root, "shop-int8")
            await asyncio.to_thread(wait_for_model, url, name, 20)
        stop.set()
        await asyncio.gather(*workers)

    asyncio.run(asyncio.wait_for(load(), 60))
    total = 0
    for mine in answers:
        versions = [int(answer["model"].partition("@")[2]) for answer in mine]
        assert versions == sorted(versions) and versions[-1] == 11
        total += len(mine)
    assert total > 200


def test_a_graceful_stop_keeps_every_impression(start, shop):
    child, url = start()
    requests = [{"subject": str(number)} for number in range(700)]
    responses, _ = asyncio.run(ask_many(url, requests))
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 0
    asked = sorted(response.json()["request_id"] for response in responses)
    assert sorted(impressions(shop.root)) == asked


def test_half_a_request_does_not_hold_a_stop(start, shop):
    child, url = start()
    responses, _ = asyncio.run(ask_many(url, [{"subject": "1"}] * 20))
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=5) as one, socket.create_connection(address, timeout=5) as other:
        one.sendall(b"POST /v1/recom")
        other.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-length: 25\r\n\r\n{")
        time.sleep(0.1)
        child.send_signal(signal.SIGTERM)
        assert child.wait(15) == 0
    assert sorted(impressions(shop.root)) == sorted(response.json()["request_id"] for response in responses)
    assert b"Traceback" not in child.stderr.read()


def test_a_broken_version_changes_nothing_for_those_who_ask(start, shop, publish):
    child, url = start()
    publish(shop.root, "shop-int8", damage="weights.safetensors")
    with pytest.raises(ServeError, match="shop-int8@2"):
        wait_for_model(url, "shop-int8@2", 0.5)
    responses, _ = asyncio.run(ask_many(url, [{"subject": "1"}] * 20))
    assert {response.json()["model"] for response in responses} == {"shop-int8@1"}
    assert b"shop-int8@2" in child.stderr.readline() + child.stderr.readline()


def test_kill_9_leaves_a_log_that_reads_and_the_next_server_starts(start, shop):
    child, url = start()
    asyncio.run(ask_many(url, [{"subject": "1"}] * 100))
    child.kill()
    child.wait()
    assert len(set(impressions(shop.root))) == len(impressions(shop.root))
    child, url = start()
    asyncio.run(ask_many(url, [{"subject": "1"}] * 3))
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 130
    told = child.stderr.read().decode()
    assert "stopped after 3 logged answers" in told and "continue with `gyral serve shop-int8" in told
    assert len(impressions(shop.root)) >= 3
    assert [read_lineage(shop.root, number).status for number in numbers(shop.root)][-2:] == ["killed", "interrupted"]


def test_of_two_servers_that_start_together_one_gets_the_port(shop):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "gyral", "serve", "shop-int8", "--root", str(shop.root), "--port", port, "--json"]
    pair = [verbs.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    deadline = time.monotonic() + 60
    while all(each.poll() is None for each in pair):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    loser, winner = sorted(pair, key=lambda each: each.poll() is None)
    assert loser.returncode == 1 and b"cannot listen on" in loser.stderr.read()
    assert json.loads(winner.stdout.readline())["url"].endswith(port)
    winner.terminate()
    assert winner.wait(20) == 0
    for each in pair:
        each.stdout.close()
        each.stderr.close()


@pytest.mark.parametrize("verb", [["serve", "shop-int8"], ["dash"]])
def test_a_host_may_be_a_name_and_head_is_answered(shop, verb):
    command = [sys.executable, "-m", "gyral", *verb, "--root", str(shop.root), "--host", "localhost", "--port", "0", "--json"]
    child = verbs.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    url = json.loads(child.stdout.readline())["url"]
    request = urllib.request.Request(f"{url}/healthz" if verb[0] == "serve" else f"{url}/", method="HEAD")
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 200 and response.read() == b""
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 130
    assert b"Traceback" not in child.stderr.read()
    child.stdout.close()
    child.stderr.close()


def test_python_files_of_the_user_are_not_imported_by_the_loops_server(small_shop, tmp_path):
    (tmp_path / "http.py").write_text("raise SystemExit('mine')")
    command = [sys.executable, "-P", "-m", "gyral", "loop", "--source", str(small_shop), "--turns", "1", "--budget", "1s"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_port_in_use_is_told_with_the_way_out(shop):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "gyral", "serve", "shop-int8", "--root", str(shop.root), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr and "0 for a free one" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_server_goes_when_its_parent_goes(start):
    child, _ = start("--child-of", "1")
    child.stdin.close()
    assert child.wait(20) == 0


def test_pages_and_their_data_are_mounted(start):
    _, url = start()
    with urllib.request.urlopen(f"{url}/", timeout=10) as page:
        assert b"<svg" in page.read() and page.headers["content-type"].startswith("text/html")
    with urllib.request.urlopen(f"{url}/models.json", timeout=10) as page:
        assert "shop-int8@1" in page.read().decode()


def test_raw_sockets_that_misbehave_do_not_stop_the_others(start):
    _, url = start()
    port = int(url.rpartition(":")[2])
    head = b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\n"
    for raw, is_ended in (
        (head + b"transfer-encoding: chunked\r\n\r\nzz\r\n", False),
        (head + b"content-length: 99999999\r\n\r\n{", False),
        (b"GET /%ff%fe HTTP/1.1\r\nhost: localhost\r\n\r\n", False),
        (head + b"content-length: 500\r\n\r\n{", True),
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(raw)
            if is_ended:
                client.shutdown(socket.SHUT_WR)
            told = client.recv(4_096)
            assert (is_ended and not told) or 400 <= int(told[9:12]) < 500
    for raw in (b"\x00" * 100, b"POST /v1/recommend HTTP/1.1\r\ncontent-length: 10\r\n\r\n{", b"GET / HTTP/9.9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(raw)
    responses, _ = asyncio.run(ask_many(url, [{"subject": "17850"}] * 20))
    assert {response.status for response in responses} == {200}


def test_a_loop_notices_that_somebody_else_published_its_model(shop, publish):
    with Run.start(shop.root, "loop", Config()) as run, ServedModel(shop.root, Config(), run) as served:
        served.follow("shop-int8@1", {"frozen": "shop-int8@1"})
        questions = [{"subject": "1", "k": 3}]
        assert len(served.ask(questions, "shop-int8@1").objects[0]) == 3
        publish(shop.root, "shop-int8")
        wait_for_model(served.url, "shop-int8@2", 10)
        with pytest.raises(ServeError, match="`shop-int8@2` answered instead of `shop-int8@1`"):
            served.ask(questions, "shop-int8@1")
        assert served.ask([{**questions[0], "model": "frozen"}], "shop-int8@1").latencies_s[0] > 0
    assert not list((shop.root / "models").glob("*.slots.json"))


def test_events_can_be_sent_to_the_server_that_answers(start, shop):
    """The same route as `gyral ingest --listen`; the first event starts the drain."""
    child, url = start("--set", "collect.min_free_bytes=0")
    before = Lake(shop.root).snapshot("events").count()
    event = {"event_id": "seen-1", "event_time": "2024-05-01T10:00:00Z", "kind": "purchase", "subject": "17850"}
    event["object"] = "85123A"
    request = urllib.request.Request(f"{url}/v1/events", data=json.dumps([event]).encode())
    assert json.load(urllib.request.urlopen(request)) == {"accepted": 1, "duplicate": 0, "quarantined": {}}
    deadline = time.monotonic() + 20
    while Lake(shop.root).snapshot("events").count() == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ask = urllib.request.Request(f"{url}/v1/recommend", data=b'{"subject": "17850"}')
    assert json.load(urllib.request.urlopen(ask))["known"]
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 0
    assert Lake(shop.root).snapshot("events").find("seen-1")["object"] == "85123A"
