"""`POST /v1/feedback`, on a server that answers: an event like any other, and what it is good for."""

import json
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pyarrow.compute as pc
import pytest

from gyral.lake import dataset as datasets
from gyral.lake.table import Lake

from .. import verbs


@pytest.fixture
def server(made, tmp_path):
    """A server of a copy of the project; its address and folder."""
    root = tmp_path / "project"
    shutil.copytree(made.root, root)
    command = [sys.executable, "-P", "-m", "gyral", "serve", "shop-int8", "--root", str(root), "--port", "0", "--json"]
    process = verbs.popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield json.loads(process.stdout.readline())["url"], root, process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_it_is_stored_once_and_what_was_chosen_is_learned(server):
    url, root, process = server
    status, answer = post(f"{url}/v1/recommend", {"subject": "somebody new", "k": 3})
    assert status == 200
    first, second = (item["object"] for item in answer["items"][:2])
    said = {"request_id": answer["request_id"], "subject": "somebody new"}
    told = [{**said, "verdict": "chosen", "object": first}, {**said, "verdict": "rejected", "object": second}]
    assert post(f"{url}/v1/feedback", told)[1]["accepted"] == 2
    assert post(f"{url}/v1/feedback", told[0])[1] == {"accepted": 0, "duplicate": 1, "quarantined": {}}
    for bad in ({}, {**said, "verdict": "liked"}, {**said, "verdict": "chosen", "object": "x" * 2_000}, [1]):
        status, error = post(f"{url}/v1/feedback", bad)
        assert status == 400 and "no feedback" in error["error"]["what"], error
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    command = [sys.executable, "-P", "-m", "gyral"]
    for words in (["ingest"], ["curate", "shop"]):
        assert subprocess.run([*command, *words, "--root", str(root)], capture_output=True, timeout=120).returncode == 0
    rows = Lake(root).snapshot("events").read(["event_id", "kind", "object", "props"]).to_pylist()
    feedback = sorted((row["kind"], row["object"]) for row in rows if row["kind"].startswith("feedback"))
    assert feedback == [("feedback_chosen", first), ("feedback_rejected", second)]
    asked = {json.loads(row["props"])["request_id"] for row in rows if row["kind"].startswith("feedback")}
    assert asked == {answer["request_id"]} <= {row["event_id"] for row in rows if row["kind"] == "impression"}
    made = datasets.find(root, "shop")
    theirs = made.read().filter(pc.equal(made.read()["subject"], "somebody new"))
    assert theirs["object"].to_pylist() == [first] and made.manifest.dropped["feedback_rejected"] == 1
