"""A device against a real server: what comes is whole or is not used, whatever is killed, cut, damaged or swapped meanwhile."""

import http.server
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from gyral.errors import ConflictError, InputError, ServeError
from gyral.files import hold
from gyral.model.family import RECOMMENDER
from gyral.serve.bundles import device as devices
from gyral.serve.bundles.device import Device
from gyral.serve.client import wait_for_model

from ... import verbs


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def whole(url, model, folder):
    """What a device of its own gets, which has nothing and whom nothing disturbs."""
    device = Device(url, model, folder)
    device.update()
    return files(device.current)


def until_patched(url, model, since):
    """Wait for the patches of a version: on a machine that is busy a device would take it whole."""
    deadline = time.monotonic() + 120
    while True:
        with urllib.request.urlopen(f"{url}/v1/bundles/{model}?from={since}", timeout=60) as told:
            if any(each["patch"] for each in json.load(told)["files"]):
                return
        assert time.monotonic() < deadline


@pytest.fixture
def quick(monkeypatch):
    """No waiting before a device asks again."""
    monkeypatch.setattr(devices.time, "sleep", lambda seconds: None)


def test_a_device_answers_as_the_server_and_gets_only_what_changed(copy, start, learn, tmp_path):
    url = start(copy, "shop")
    device = Device(url, "shop@1", tmp_path / "device", "server")
    assert device.current is None and not device.verify()
    first = device.update()
    assert first.model == "shop@1" and first.is_new and first.received_bytes > first.whole_bytes > 1_000_000 and device.verify()
    again = device.update()
    assert (again.is_new, again.model, again.received_bytes) == (False, "shop@1", 0)

    version = learn(copy, "shop")
    wait_for_model(url, version, 20)
    until_patched(url, "shop@2", "shop@1")
    device = Device(url, "shop", tmp_path / "device", "server")
    second = device.update()
    assert second.model == version == "shop@2" and second.is_new and device.verify()
    assert second.received_bytes < 0.2 * second.whole_bytes
    assert files(device.current) == whole(url, version, tmp_path / "other")

    here = RECOMMENDER.load(device.current)
    for recent in ([], here.codes.inputs.objects[:3], here.codes.inputs.objects[5:6]):
        body = json.dumps({"subject": "nobody", "k": 20, "context": {"recent": recent}}).encode()
        with urllib.request.urlopen(f"{url}/v1/recommend", body) as told:
            expected = [(each["object"], each["score"]) for each in json.load(told)["items"]]
        answer = here.recommend("nobody", 20, {"recent": recent})
        assert [(each.object, each.score) for each in answer.items] == expected

    assert device.roll_back() == "shop@1" and device.verify() and device.current.name.startswith("shop@1-")
    assert device.update().model == "shop@2"
    assert len([path for path in (tmp_path / "device").iterdir() if path.is_dir()]) == 2


@pytest.mark.slow
def test_what_is_damaged_on_the_device_is_noticed_and_replaced(copy, start, learn, tmp_path):
    url = start(copy, "shop-int8")
    device = Device(url, "shop-int8", tmp_path / "device", "phone")
    device.update()
    path = device.current / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert not device.verify()
    told = device.update()
    assert told.is_new and device.verify() and told.received_bytes < told.whole_bytes  # the other files were right
    path.write_bytes(data)
    wait_for_model(url, learn(copy, "shop-int8"), 20)
    assert device.update().model == "shop-int8@2" and device.verify()


def test_a_download_that_is_killed_goes_on_where_it_was(copy, start, wire, tmp_path):
    url = start(copy, "shop")
    between = wire(url)
    folder = tmp_path / "device"
    reached = threading.Event()

    def slowly(data, total):
        if total > 2_500_000:
            reached.set()
            time.sleep(0.05)
        return data

    between.through = slowly
    command = [sys.executable, "-m", "gyral.serve.bundles.device", between.url, "shop@1", str(folder)]
    child = verbs.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert reached.wait(60)
    child.send_signal(signal.SIGKILL)
    child.wait()
    device = Device(url, "shop@1", folder)
    assert device.current is None
    told = device.update()
    assert device.verify() and told.whole_bytes - told.received_bytes > 1_900_000
    assert files(device.current) == whole(url, "shop@1", tmp_path / "other")


FORKS = """
import os, shutil, signal, sys
from pathlib import Path
from gyral.serve.bundles.device import Device

url, model, folder = sys.argv[1:]
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        left = [int(line)]

        def counted(real):
            def step(*args, **named):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **named)

            return step

        for name in ("replace", "rename", "fsync", "unlink", "mkdir", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        shutil.copyfile = counted(shutil.copyfile)
        try:
            Device(url, model, Path(folder)).update()
        finally:
            os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Updates in a process of its own that is killed before its n-th step towards the disk."""


@pytest.mark.slow
def test_killed_at_any_step_the_device_has_one_model_or_the_other(copy, start, learn, tmp_path):
    url = start(copy, "shop-int8")
    Device(url, "shop-int8@1", tmp_path / "before").update()
    learn(copy, "shop-int8")
    expected = {"shop-int8@1": files(Device(url, "", tmp_path / "before").current)}
    expected["shop-int8@2"] = whole(url, "shop-int8@2", tmp_path / "after")
    seen, folder = [], tmp_path / "device"
    command = [sys.executable, "-c", FORKS, url, "shop-int8@2", str(folder)]
    forks = verbs.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for count in range(1, 100):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "before", folder)
        print(count, file=forks.stdin, flush=True)
        was_killed = int(forks.stdout.readline()) == -signal.SIGKILL
        device = Device(url, "shop-int8@2", folder)
        model = device.current.name.rpartition("-")[0]
        assert device.verify() and files(device.current) == expected[model]
        seen.append(model)
        if not was_killed:
            break
        assert device.update().model == "shop-int8@2" and files(device.current) == expected["shop-int8@2"]
        assert not list(folder.glob(".parts*"))
    forks.communicate(timeout=20)
    assert seen == sorted(seen) and set(seen) == set(expected) and 15 < len(seen) < 99


@pytest.mark.slow
def test_a_flipped_bit_costs_a_piece_and_no_more(copy, start, wire, tmp_path, quick):
    url = start(copy, "shop")
    between = wire(url)
    flipped = []

    def flip(data, total):
        if total > 1_500_000 and len(flipped) < 2 and len(data) > 10_000:
            flipped.append(total)
            return data[:5_000] + bytes([data[5_000] ^ 4]) + data[5_001:]
        return data

    between.through = flip
    device = Device(between.url, "shop@1", tmp_path / "device")
    told = device.update()
    assert len(flipped) == 2 and device.verify()
    assert told.whole_bytes < told.received_bytes <= told.whole_bytes + 2 * (1 << 20) + 20_000

    between.through = lambda data, total: data[:5_000] + bytes([data[5_000] ^ 4]) + data[5_001:] if len(data) > 10_000 else data
    other = Device(between.url, "shop-int8@1", tmp_path / "device")
    with pytest.raises(ServeError, match="damaged"):
        other.update()
    assert device.verify() and device.current.name.startswith("shop@1-")


@pytest.mark.slow
def test_a_connection_that_breaks_is_made_again(copy, start, wire, tmp_path, quick):
    between = wire(start(copy, "shop"))
    cuts = []

    def cut(data, total):
        if total > 700_000 * (len(cuts) + 1) and len(cuts) < 6:
            cuts.append(total)
            return None
        return data

    between.through = cut
    device = Device(between.url, "shop@1", tmp_path / "device")
    device.update()
    assert len(cuts) == 6 and device.verify()
    between.through = lambda data, total: None
    with pytest.raises(ServeError, match="does not answer"):
        device.update()
    assert device.verify()


@pytest.mark.slow
def test_a_server_that_swaps_meanwhile_gives_one_version_whole(copy, start, learn, wire, tmp_path):
    url = start(copy, "shop")
    between = wire(url)
    version = []

    def swap(data, total):
        if total > 1_200_000 and not version:
            version.append(learn(copy, "shop"))
            wait_for_model(url, version[0], 20)
        return data

    between.through = swap
    device = Device(between.url, "shop", tmp_path / "device", "server")
    assert device.update().model == "shop@1" and device.verify()
    assert device.update().model == "shop@2" and device.verify()

    def remove(data, total):
        if total > start_at + 300_000 and len(version) == 1:
            version.append(learn(copy, "shop", rows=700))
            wait_for_model(url, version[1], 20)
            for path in (copy / "models" / "shop@2", copy / "models" / ".bundles" / "shop@2"):
                shutil.rmtree(path)
        return data

    start_at = between.total
    between.through = remove
    device = Device(between.url, "shop", tmp_path / "other", "server")
    assert device.update().model == "shop@3" and device.verify()
    assert len(version) == 2


def test_two_devices_do_not_share_a_folder(copy, start, tmp_path):
    device = Device(start(copy, "shop-int8"), "shop-int8", tmp_path / "device")
    device.update()
    with hold(tmp_path / "device" / "update.lock"), pytest.raises(ConflictError, match="another process"):
        device.update()


DIGEST = "0" * 64


def file(**other):
    return {"name": "a", "role": "other", "digest": DIGEST, "size_bytes": 0, "pieces": [], **other}


WRONG = [
    {"files": [file(name="../../evil")]},
    {"files": [file(name="/tmp/evil")]},
    {"files": [file(name=".hidden")]},
    {"files": [file(name="manifest.json")]},
    {"files": [file(), file()]},
    {"files": []},
    {"files": [file(digest="../x")]},
    {"files": [file(size_bytes=-1)]},
    {"files": [file(size_bytes=10)]},
    {"files": [file(size_bytes=1 << 60, pieces=[DIGEST])]},
    {"files": [file(patch={"old": DIGEST, "digest": "x", "size_bytes": 0, "pieces": []})]},
    {"model": "../../x@1"},
    {"model": "x"},
    {"format": 2},
    {"piece_bytes": 0},
    {"piece_bytes": "1"},
    {"piece_bytes": 1 << 20, "files": [file(size_bytes=1 << 40, pieces=[DIGEST] * (1 << 20))]},
]


def test_a_server_is_not_believed(tmp_path):
    told = []

    class Hostile(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", str(len(told[-1])))
            self.end_headers()
            self.wfile.write(told[-1])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        right = {"format": 1, "model": "x@1", "piece_bytes": 10, "files": [file()]}
        for wrong in [*({**right, **each} for each in WRONG), [], 7, {"format": 1}]:
            told.append(json.dumps(wrong).encode())
            with pytest.raises(InputError):
                Device(url, "x", tmp_path / "device").update()
            assert sorted(path.name for path in (tmp_path / "device").iterdir()) == ["update.lock"], wrong
        server.shutdown()
    with pytest.raises(InputError, match="no address"):
        Device("file:///etc", "x", tmp_path / "device")
    with pytest.raises(InputError, match="before"):
        Device(url, "x", tmp_path / "device").roll_back()


def test_a_device_needs_the_standard_library_and_numpy():
    code = """
import sys
before = set(sys.modules)
import gyral.serve.bundles.device
found = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
print(sorted(found), sorted(name for name in sys.modules if name.startswith("gyral.")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    third, own = done.stdout.split("] ")
    assert third == "['gyral', 'numpy'"
    assert own.count("gyral.") <= 8 and Path(devices.__file__).name == "device.py"
