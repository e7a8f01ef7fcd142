"""The lake in an object store: a real one (SeaweedFS), real processes that race, die and sleep, and answers that are lost.

What was put is the oracle: each id one row, and nothing else is one.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from gyral import config as configs
from gyral.errors import ConflictError
from gyral.event.schema import TABLES
from gyral.ingest.drain import Drain
from gyral.lake import commit as protocol
from gyral.lake.commit import LakeError
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog

pytestmark = [pytest.mark.bucket, pytest.mark.timeout(180)]
WEED = Path(sys.executable).with_name("weed")
MAP = "subject=subject,object=object,time=time,event_id=event_id"
OPTIONS = {"aws_access_key_id": "who", "aws_secret_access_key": "s3cr3t", "aws_region": "us-east-1", "allow_http": True}


class Store:
    """An object store of one process; stopped and started again it has what it had."""

    def __init__(self, folder):
        self.folder = folder
        with contextlib.ExitStack() as held:
            probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(8)]
            self.ports = [probe.getsockname()[1] for probe in probes]
        self.options = {**OPTIONS, "aws_endpoint": f"http://127.0.0.1:{self.ports[0]}"}
        self.start()

    def start(self):
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self.ports
        command = [str(WEED), "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
        command += ["-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64", "-volume.max=50"]
        command += [f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", f"-master.port={master}", f"-master.port.grpc={master_grpc}"]
        command += [f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}"]
        command += [f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}"]
        secrets = {"AWS_ACCESS_KEY_ID": "who", "AWS_SECRET_ACCESS_KEY": "s3cr3t"}
        self.log = open(self.folder / "log.txt", "ab")  # noqa: SIM115 (closed by stop)
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env={**os.environ, **secrets})
        deadline = time.monotonic() + 60
        while not self._takes_rows():
            assert time.monotonic() < deadline and self.process.poll() is None, (self.folder / "log.txt").read_text()[-2000:]
            time.sleep(0.2)

    def stop(self):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()
        self.log.close()

    def _takes_rows(self):
        try:
            with socket.create_connection(("127.0.0.1", self.ports[0]), 1):
                pass
            request = urllib.request.Request(f"http://127.0.0.1:{self.ports[6]}/buckets/lakes/up", data=b"x", method="PUT")
            return urllib.request.urlopen(request, timeout=5).status < 300
        except OSError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not WEED.exists():
        pytest.skip("no object store: ./scripts/setup bucket")
    store = Store(tmp_path_factory.mktemp("store"))
    yield store
    store.stop()


@pytest.fixture
def store(server):
    if server.process.poll() is not None:
        server.start()
    return server


@pytest.fixture
def lake(store, tmp_path):
    return Lake(tmp_path, uri_of(tmp_path), store.options)


@pytest.fixture
def shop(store, tmp_path):
    """A project whose configuration names a lake in the store, and a file of 400 events."""
    options = "".join(f"{key} = {json.dumps(value)}\n" for key, value in store.options.items())
    text = f'lake = "{uri_of(tmp_path)}"\n\n[ingest]\ncommit_rows = 100\nbatch_rows = 50\n\n[lake_options]\n{options}'
    (tmp_path / "gyral.toml").write_text(text)
    return Shop(tmp_path)


class Shop:
    def __init__(self, root):
        self.root = root

    @property
    def lake(self):
        return Lake.of(self.root, configs.load(self.root))

    def file(self, first=0, count=400):
        """Events of 40 subjects, and one row more in a hundred that has no time."""
        path = self.root / f"events-{first}.jsonl"
        rows = [
            {"event_id": f"e{n}", "time": 1_700_000_000_000 + 60_000 * n, "subject": f"u{n % 40}", "object": f"o{n % 9}"}
            for n in range(first, first + count)
        ]
        bad = [{"event_id": f"b{first + n}", "subject": "u", "object": "o"} for n in range(count // 100)]
        path.write_text("\n".join(map(json.dumps, [*rows, *bad])))
        return path, {f"e{n}" for n in range(first, first + count)}

    def command(self, verb, *args):
        return [sys.executable, "-m", "gyral", verb, *map(str, args), "--root", str(self.root)]

    def run(self, verb, *args, fault=""):
        environment = {**os.environ, "GYRAL_FAULT": fault}
        return subprocess.run(self.command(verb, *args), capture_output=True, text=True, timeout=120, env=environment)

    def ids(self):
        return ids(self.lake.snapshot("events"))


def uri_of(path):
    return f"s3://lakes/{re.sub('[^a-z0-9]', '-', path.name)}-{os.getpid()}-{time.monotonic_ns()}/a"


def rows(first, count, offset=0):
    return pa.Table.from_pylist(
        [
            {"event_id": f"e{first + number}", "ingest_time": 0, "reason": "x", "raw": b"r", "src_partition": "p",
             "src_offset": offset, "src_index": number}
            for number in range(count)
        ],
        schema=TABLES["quarantine"],
    )  # fmt: skip


def ids(snapshot):
    return sorted(snapshot.read(["event_id"])["event_id"].to_pylist())


def told(done):
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_the_whole_way_through_a_bucket(shop):
    path, sent = shop.file()
    done = shop.run("ingest", "--source", path, "--map", MAP, "--json")
    assert done.returncode == 0, done.stderr
    assert (told(done)["accepted"], told(done)["quarantined"]) == (400, {"missing_time": 4})
    assert shop.ids() == sorted(sent)
    assert told(shop.run("ingest", "--source", path, "--map", MAP, "--json"))["accepted"] == 0  # again: nothing is doubled
    events = told(shop.run("show", "lake", "--json"))["tables"]["events"]
    assert (events["rows"], events["kinds"]) == (400, {"interaction": 400}) and events["bytes"] > 10_000
    made = shop.run("curate", "buys", "--json")
    assert made.returncode == 0 and told(made)["rows_in"] == 400, made.stderr
    more, sent_more = shop.file(1_000, 100)
    assert shop.run("ingest", "--source", more, "--map", MAP).returncode == 0
    assert shop.ids() == sorted(sent | sent_more)
    assert ids(shop.lake.snapshot("events", events["version"])) == sorted(sent)  # as of then
    assert told(shop.run("show", "buys", "--why", "e7", "--json"))["event"]["subject"] == "u7"
    checked = told(shop.run("doctor", "--json"))["findings"]
    assert next(each["found"] for each in checked if each["check"] == "lake").startswith("events 500 rows, quarantine 5 rows")
    assert not (shop.root / "lake" / "events").exists()
    kept = [each for each in shop.root.rglob("*") if each.is_file() and each.name != "gyral.toml"]
    assert not [each for each in kept if b"s3cr3t" in each.read_bytes()]


def test_a_lake_named_on_the_command_line_with_credentials_of_the_environment(store, tmp_path, monkeypatch):
    for key, value in store.options.items():
        monkeypatch.setenv(key.upper() if key.startswith("aws") else f"AWS_{key.upper()}", str(value).lower())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    shop, uri = Shop(tmp_path), uri_of(tmp_path)
    path, sent = shop.file()
    done = shop.run("ingest", "--into", uri, "--source", path, "--map", MAP)
    assert done.returncode == 0, done.stderr
    assert ids(Lake(tmp_path, uri).snapshot("events")) == sorted(sent)
    assert told(shop.run("show", "lake", "--into", uri, "--json"))["tables"]["events"]["rows"] == 400
    other = shop.run("ingest", "--into", uri_of(tmp_path), "--source", path, "--map", MAP, "--json")
    assert told(other)["accepted"] == 400  # another lake has another log, or it would be told that it has them


def test_the_second_of_two_who_planned_the_same_offsets_is_refused(lake):
    one, two = lake.open("quarantine"), lake.open("quarantine")
    after = one.commit(rows(0, 3), {"p": 1})
    with pytest.raises(ConflictError):
        two.commit(rows(0, 3), {"p": 1})
    assert ids(lake.snapshot("quarantine")) == ["e0", "e1", "e2"] and after.version == one.version + 1
    merged = after.commit(rows(3, 1), {"p": 2}).compact()
    with pytest.raises(ConflictError):
        after.commit(rows(3, 1), {"p": 2})
    assert ids(merged) == ["e0", "e1", "e2", "e3"] and merged.num_fragments == 1


def test_racing_processes_lose_and_double_nothing(lake):
    code = (
        "import sys, json, pathlib\nsys.path.insert(0, sys.argv[2])\nfrom test_object_store import rows\n"
        "from gyral.lake.table import Lake\nfrom gyral.errors import ConflictError\nwon = lost = 0\n"
        "lake = Lake(pathlib.Path(sys.argv[1]), sys.argv[3], json.loads(sys.argv[4]))\n"
        "while won < 12:\n    snapshot = lake.open('quarantine')\n    offset = snapshot.offsets.get('p', 0)\n"
        "    try:\n        snapshot.commit(rows(10 * offset, 10, offset), {'p': offset + 1})\n        won += 1\n"
        "    except ConflictError:\n        lost += 1\n"
        "print(lost)\n"
    )
    here = __file__.rpartition("/")[0]
    command = [sys.executable, "-c", code, str(lake.folder), here, lake.place.uri, json.dumps(lake.place.options)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    lost = [int(child.communicate(timeout=150)[0]) for child in children]
    final = lake.snapshot("quarantine")
    assert final.offsets == {"p": 36} and sum(lost) > 0
    assert ids(final) == sorted(f"e{number}" for number in range(360))


def test_a_table_made_by_many_at_once_is_one_table_that_keeps_what_each_commits(store, tmp_path):
    def work(lake, start, number, errors):
        try:
            start.wait()
            snapshot = lake.open("quarantine")
            while True:
                try:
                    return snapshot.commit(rows(number, 1, number), {f"p{number}": 1})
                except ConflictError:
                    snapshot = lake.open("quarantine")
        except Exception as error:
            errors.append(error)

    for attempt in range(20):
        uri, start, errors = uri_of(tmp_path), threading.Barrier(4), []
        lakes = [Lake(tmp_path, uri, store.options) for _ in range(4)]
        threads = [threading.Thread(target=work, args=(lake, start, n, errors)) for n, lake in enumerate(lakes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == [], attempt
        assert ids(lakes[0].snapshot("quarantine")) == ["e0", "e1", "e2", "e3"]
        assert lakes[0].snapshot("quarantine").version == 5


def test_who_makes_a_table_that_is_there_gets_the_one_that_is_there(lake):
    lake.open("quarantine").commit(rows(0, 3), {"p": 1})
    late = protocol.create(lake.place.table("quarantine"), TABLES["quarantine"], lake.place.options)
    assert late.version == 2 and late.count_rows() == 3 and protocol.offsets_of(late) == {"p": 1}
    late.cleanup_old_versions(timedelta(0))
    late = protocol.create(lake.place.table("quarantine"), TABLES["quarantine"], lake.place.options)
    assert late.version == 2 and ids(lake.snapshot("quarantine")) == ["e0", "e1", "e2"]


def test_a_store_that_refuses_is_told_with_its_own_words(lake, store, tmp_path):
    wrong = Lake(tmp_path, lake.place.uri, {**store.options, "aws_secret_access_key": "wrong"})
    for refused in (lambda: wrong.open("events"), lambda: protocol.create(*made_of(wrong))):
        with pytest.raises(LakeError) as error:
            refused()
        assert "403" in error.value.why and "lake_options" in error.value.hint
    assert not lake.exists("events")


def made_of(lake):
    return lake.place.table("events"), TABLES["events"], lake.place.options


def test_old_versions_are_forgotten_but_not_pinned_ones_and_a_zombie_of_one_is_refused(lake, monkeypatch):
    zombie = lake.open("quarantine")
    snapshot = zombie.commit(rows(0, 3), {"p": 1})
    snapshot.pin("dataset")
    snapshot.pin("dataset")
    pinned = snapshot.version
    for offset in range(2, 8):
        snapshot = snapshot.commit(rows(3 * offset, 1), {"p": offset})
    with pytest.raises(ConflictError, match="keeps version 2, not 8"):
        snapshot.pin("dataset")
    monkeypatch.setattr("gyral.lake.snapshot.MAX_FRAGMENTS", 3)
    for name, value in {"MAX_VERSIONS": 5, "KEEP_VERSIONS_FOR": timedelta(0), "CLEAN_EVERY_S": 0.0}.items():
        monkeypatch.setattr(f"gyral.lake.table.{name}", value)
    merged = lake.maintain("quarantine", snapshot)
    assert merged.num_fragments == 1 and merged.offsets == {"p": 7}
    assert [each["version"] for each in merged._dataset.versions()] == [pinned, merged.version]
    assert ids(lake.snapshot("quarantine", pinned)) == ["e0", "e1", "e2"]
    with pytest.raises((ConflictError, LakeError)):
        zombie.commit(rows(0, 3), {"p": 1})
    assert ids(lake.snapshot("quarantine")) == ids(merged) and len(ids(merged)) == 9


@pytest.mark.parametrize("point", ["lake.planned:2", "lake.written:3", "lake.flushed:2", "lake.merged:1", "lake.merged:4"])
def test_kill_9_at_each_point_loses_and_doubles_nothing(shop, point):
    path, sent = shop.file()
    killed = shop.run("ingest", "--source", path, "--map", MAP, fault=point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = shop.run("ingest", "--source", path, "--map", MAP, "--json")
    assert done.returncode == 0, done.stderr
    assert shop.ids() == sorted(sent)
    assert shop.lake.snapshot("quarantine").count() == 4
    assert shop.lake.settled() == {next(iter(shop.lake.settled())): 9}


def test_a_committer_that_slept_between_plan_and_commit_is_refused(shop):
    path, sent = shop.file()
    command = shop.command("ingest", "--source", path, "--map", MAP)
    sleeper = subprocess.Popen(command, env={**os.environ, "GYRAL_FAULT": "lake.planned:1:SIGSTOP"}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while os.waitpid(sleeper.pid, os.WNOHANG | os.WUNTRACED)[0] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        lake = shop.lake
        with SqliteLog(lake.log_folder) as log:
            assert Drain(lake, log, 1_000).run().accepted == 400
            version = lake.snapshot("events").version
            sleeper.send_signal(signal.SIGCONT)
            assert sleeper.wait(60) == 0
    finally:
        sleeper.kill()
        sleeper.wait()
    assert shop.ids() == sorted(sent) and lake.snapshot("events").version == version


def test_a_store_that_is_away_costs_no_event_that_was_acknowledged(shop, store):
    command = shop.command("ingest", "--listen", "127.0.0.1:0", "--json")
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = json.loads(server.stdout.readline())["url"]
        post(url, range(20))
        wait_for(lambda: shop.lake.snapshot("events").count() == 20)
        store.stop()
        assert post(url, range(20, 60)) == 40  # the log has them
        away = shop.run("show", "lake")
        assert away.returncode == 1 and "cannot be reached" in away.stderr and "lake_options" in away.stderr, away.stderr
        assert "s3cr3t" not in away.stderr
        wait_for(lambda: "drain    waits" in "".join(log.read_text() for log in shop.root.glob("runs/*/log.txt")))
        server.terminate()
        assert server.wait(90) == 1  # what came in could not be committed, and it says so
        assert "the lake" in server.stderr.read()
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
        server.stderr.close()
        if store.process.poll() is not None:
            store.start()
    assert shop.run("ingest").returncode == 0
    assert shop.ids() == sorted(f"e{number}" for number in range(60))


def post(url, numbers):
    events = [{"event_id": f"e{n}", "event_time": 1_700_000_000_000, "kind": "k", "subject": "s"} for n in numbers]
    with urllib.request.urlopen(f"{url}/v1/events", data=json.dumps(events).encode(), timeout=60) as answer:
        return json.loads(answer.read())["accepted"]


def wait_for(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Lossy:
    """Passes everything on to the store, but for the answers to the next puts of a kind: those it cuts, once they are done."""

    def __init__(self, port):
        self.port, self.losing, self.lost = port, b"", 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client = self._server.accept()[0]
                store = socket.create_connection(("127.0.0.1", self.port))
                put = []
                for args in ((client, store, put, True), (store, client, put, False)):
                    threading.Thread(target=self._pass, args=args, daemon=True).start()

    def _pass(self, source, target, put, is_request):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_request and self.losing and re.match(rb"PUT \S+" + self.losing, data):
                    put.append(1)
                elif not is_request and put:
                    put.clear()
                    self.lost += 1
                    break
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self):
        self._server.close()


@pytest.mark.parametrize("kind", [rb"\.manifest", rb"/data/", rb"\.txn"])
def test_an_answer_that_is_lost_on_the_way_loses_and_doubles_nothing(shop, store, kind):
    """The put has happened and nobody knows: a commit then looks like a lost race, or like an error."""
    path, sent = shop.file()
    lossy = Lossy(store.ports[0])
    try:
        lake = Lake(shop.root, shop.lake.place.uri, {**store.options, "aws_endpoint": lossy.url})
        config = configs.load(shop.root, flags={"ingest.source": str(path)})
        assert shop.run("ingest", "--source", path, "--map", MAP, fault="lake.planned:1").returncode == -signal.SIGKILL
        assert config.lake == lake.place.uri
        lossy.losing = kind
        with SqliteLog(shop.lake.log_folder) as log:
            for _ in range(30):
                lossy.losing = kind if lossy.lost < 6 else b""
                with contextlib.suppress(LakeError, ConflictError):
                    Drain(lake, log, 100).run()
        assert lossy.lost >= 6
    finally:
        lossy.close()
    assert shop.run("ingest", "--source", path, "--map", MAP).returncode == 0
    assert shop.ids() == sorted(sent) and shop.lake.snapshot("quarantine").count() == 4


def test_the_loop_turns_in_a_bucket(shop):
    path, sent = shop.file(0, 2_000)
    lake, settings = shop.lake, (shop.root / "gyral.toml").read_text()
    (shop.root / "gyral.toml").write_text(settings.partition("\n")[2])  # named on the command line: the server must learn of it
    done = shop.run(
        "loop", "--set", f"lake={lake.place.uri}", "--source", path, "--map", MAP, "--turns", 2, "--budget", "2s", "--json"
    )
    assert done.returncode == 0, done.stderr
    kinds = lake.overview()["tables"]["events"]["kinds"]
    assert len(told(done)["turns"]) == 2 and kinds["impression"] > 0
    assert kinds["interaction"] == told(done)["turns"][0]["events"] + told(done)["turns"][1]["events"] < len(sent)
