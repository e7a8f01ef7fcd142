"""The routes, on a real server process: which variant a device gets, and that nothing else can be had."""

import hashlib
import http.client
import json
import os
import shutil
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from gyral.errors import ServeError
from gyral.keys import new_key
from gyral.serve.bundles.device import Device
from gyral.serve.bundles.shelf import KEPT_VERSIONS, Shelf

from ... import verbs

CLAIM = {"x-gyral-tier": "server"}


class Asking:
    """Asks one server; paths go as they are."""

    def __init__(self, url):
        self.netloc = urlsplit(url).netloc

    def __call__(self, path, method="GET", **headers):
        connection = http.client.HTTPConnection(self.netloc, timeout=30)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def manifest(self, model, **headers):
        status, told, body = self(f"/v1/bundles/{model}", **headers)
        assert status == 200, body
        return json.loads(body), told

    def error(self, path, **headers):
        status, _, body = self(path, **headers)
        error = json.loads(body)["error"]
        assert set(error) == {"what", "where", "why", "hint"} and error["what"] and error["hint"]
        return status, error


@pytest.fixture(scope="module", params=[0, pytest.param(1, marks=pytest.mark.slow)], ids=["inline", "workers"])
def shared(made, tmp_path_factory, request):
    root = tmp_path_factory.mktemp("bundles") / "project"
    shutil.copytree(made.root, root, ignore=shutil.ignore_patterns("runs", "datasets", "lake"))
    (root / "models" / "private@1").mkdir()
    (root / "models" / "private@1" / "card.json").write_text('{"family": "lm", "model": "private@1"}')
    (root / "models" / "private@1" / "weights.safetensors").write_bytes(b"secret weights")
    (root / "secret.txt").write_text("secret")
    os.symlink(root / "secret.txt", root / "models" / "shop-int8@1" / "secret.txt")
    command = [sys.executable, "-P", "-m", "gyral", "serve", "shop-int8", "--root", str(root), "--port", "0", "--json"]
    command += ["--workers", str(request.param)]
    child = verbs.popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    yield root, json.loads(child.stdout.readline())["url"]
    child.kill()
    child.wait()
    child.stdout.close()


@pytest.fixture
def ask(shared):
    return Asking(shared[1])


def test_a_manifest_says_what_there_is_and_every_file_is_that(ask):
    manifest, headers = ask.manifest("shop-int8@1")
    assert headers["content-type"] == "application/json" and "x-gyral-tier" in headers["vary"]
    assert manifest["model"] == "shop-int8@1" and manifest["variant"] == "int8" and manifest["format"] == 1
    assert manifest["run"] == {**manifest["run"], "family": "recommender", "runtimes": []}
    assert [each["name"] for each in manifest["files"]] == ["card.json", "inputs.json", "weights.safetensors"]
    assert [each["role"] for each in manifest["files"]] == ["card", "inputs", "weights"]
    for each in manifest["files"]:
        status, headers, body = ask(f"/v1/bundles/shop-int8/files/{each['digest']}")
        assert status == 200 and len(body) == each["size_bytes"] == int(headers["content-length"])
        assert hashlib.blake2b(body, digest_size=32).hexdigest() == each["digest"]
        step = manifest["piece_bytes"]
        cut = [body[at : at + step] for at in range(0, len(body), step)]
        assert [hashlib.blake2b(piece, digest_size=32).hexdigest() for piece in cut] == each["pieces"]
        assert "immutable" in headers["cache-control"] and headers["etag"] == f'"{each["digest"]}"'
    assert sum(each["size_bytes"] for each in manifest["files"]) == manifest["size_bytes"]


def test_nobodys_name_and_nothing_they_met_leaves(ask, shared):
    inputs = json.loads((shared[0] / "models" / "shop-int8@1" / "inputs.json").read_text())
    subjects = set(inputs["subjects"]) - set(inputs["objects"])
    assert len(subjects) > 100
    manifest, _ = ask.manifest("shop-int8@1")
    for each in manifest["files"]:
        _, _, body = ask(f"/v1/bundles/shop-int8/files/{each['digest']}")
        assert not [name for name in subjects if f'"{name}"'.encode() in body]
        if each["role"] == "weights":
            told = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
            assert told["history"]["shape"] == [0] and told["indptr"]["shape"] == [1]


def test_the_tier_chooses_the_variant(ask):
    on_server, _ = ask.manifest("shop-int8", **CLAIM)
    on_phone, _ = ask.manifest("shop", x_gyral_tier="phone")
    assert on_phone["model"] == "shop-int8@1" and on_phone["asked"] == "shop" and "battery" in on_phone["why"]
    assert on_server["quality"]["value"] >= on_phone["quality"]["value"] and on_server["tier"] == "server"
    by_hints, _ = ask.manifest("shop", sec_ch_ua_mobile="?1", user_agent="Mozilla/5.0")
    assert (by_hints["tier"], by_hints["model"]) == ("phone", "shop-int8@1")
    pinned, _ = ask.manifest("shop@1", x_gyral_tier="phone")
    assert pinned["model"] == "shop@1" and pinned["variant"] == "as trained"
    status, error = ask.error("/v1/bundles/shop", x_gyral_tier="fridge")
    assert status == 400 and "fridge" in error["what"]


def test_what_is_known_is_not_sent_again(ask):
    manifest, headers = ask.manifest("shop", **CLAIM)
    status, told, body = ask("/v1/bundles/shop", if_none_match=headers["etag"], **CLAIM)
    assert (status, body, told["etag"]) == (304, b"", headers["etag"])
    assert ask("/v1/bundles/shop", if_none_match='W/"other", "none"', **CLAIM)[0] == 200
    path = f"/v1/bundles/shop/files/{manifest['files'][0]['digest']}"
    assert ask(path, if_none_match=f'"x", "{manifest["files"][0]["digest"]}"')[::2] == (304, b"")


def test_ranges_are_those_of_http(ask):
    manifest, _ = ask.manifest("shop-int8")
    each = manifest["files"][-1]
    path, size, etag = f"/v1/bundles/shop-int8/files/{each['digest']}", each["size_bytes"], f'"{each["digest"]}"'
    _, headers, whole = ask(path)
    assert headers["accept-ranges"] == "bytes"
    for wanted, first, end in (("0-0", 0, 1), ("5-99", 5, 100), (f"{size - 3}-", size - 3, size), ("-7", size - 7, size)):
        status, headers, body = ask(path, range=f"bytes={wanted}")
        assert (status, body) == (206, whole[first:end])
        assert headers["content-range"] == f"bytes {first}-{end - 1}/{size}"
    assert ask(path, range=f"bytes=9-{10 * size}")[2] == whole[9:]
    assert ask(path, range=f"bytes=-{10 * size}")[2] == whole
    for wanted in ("9-3", "a-b", "0-1,4-5", "", "--", "1"):  # no single range: all of it
        assert ask(path, range=f"bytes={wanted}")[::2] == (200, whole)
    for wanted in (f"{size}-", f"{size}-{size + 9}", "-0"):
        status, headers, _ = ask(path, range=f"bytes={wanted}")
        assert (status, headers["content-range"]) == (416, f"bytes */{size}")
    assert ask(path, range="bytes=1-2", if_range=etag)[0] == 206 and ask(path, range="bytes=1-2", if_range='"x"')[0] == 200
    status, headers, body = ask(path, "HEAD")
    assert (status, headers["content-length"], body) == (200, str(size), b"")
    assert ask(path, "POST")[0] == 405 and ask("/v1/bundles/shop", "PUT")[0] == 405


def test_nothing_else_can_be_had(ask, shared):
    root, _ = shared
    secret = hashlib.blake2b((root / "secret.txt").read_bytes(), digest_size=32).hexdigest()
    weights = hashlib.blake2b(b"secret weights", digest_size=32).hexdigest()
    own = hashlib.blake2b((root / "models/shop-int8@1/weights.safetensors").read_bytes(), digest_size=32).hexdigest()
    for name in (
        secret,
        weights,
        own,
        "0" * 64,
        "..",
        "../../secret.txt",
        "..%2f..%2fsecret.txt",
        "%2e%2e",
        "card.json",
        "A" * 64,
    ):
        assert ask.error(f"/v1/bundles/shop/files/{name}")[0] == 404, name
    paths = [
        "private",
        "private@1",
        "shop@2",
        "shop-int8@0",
        "..",
        "%2e%2e",
        ".bundles",
        "../models/shop",
        "",
        "shop@1@1",
        "shop/",
    ]
    paths += [
        "shop/",
        "shop/files",
        "shop/files/",
        "shop/x/y",
        "%00",
        "shop%2f..%2fprivate",
        "/etc/passwd",
        "shop*@1",
        "[a-z]*",
    ]
    for path in paths:
        status, _, body = ask(f"/v1/bundles/{path}")
        assert status in (404, 409) and b"secret" not in body, path
    for since in ("shop-int8", "../x@1", "a@b", "@1", "x" * 400 + "@1", "shop@-1"):
        assert ask.error(f"/v1/bundles/shop?from={since}")[0] == 400
    for since in ("shop@9", "private@1", "none@1"):
        assert all(each["patch"] is None for each in ask.manifest(f"shop?from={since}")[0]["files"])


def test_a_file_that_is_changed_is_known_no_longer(copy, start, tmp_path):
    ask = Asking(start(copy, "shop-int8"))
    (card,) = [each for each in ask.manifest("shop-int8@1")[0]["files"] if each["role"] == "card"]
    path = copy / "models" / "shop-int8@1" / "card.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": ', b'"seed":  '))
    assert ask.error(f"/v1/bundles/shop-int8/files/{card['digest']}")[0] == 404
    (now,) = [each for each in ask.manifest("shop-int8@1")[0]["files"] if each["role"] == "card"]
    assert now["digest"] != card["digest"] and ask(f"/v1/bundles/shop-int8/files/{now['digest']}")[2] == path.read_bytes()


@pytest.mark.slow
def test_where_there_are_keys_one_is_needed(copy, start):
    secret, sha256 = new_key()
    ask = Asking(start(copy, "shop-int8", "--set", f'serve.keys=[{{name="device", sha256="{sha256}"}}]'))
    assert ask.error("/v1/bundles/shop-int8")[0] == 401
    manifest, _ = ask.manifest("shop-int8", authorization=f"Bearer {secret}")
    path = f"/v1/bundles/shop-int8/files/{manifest['files'][0]['digest']}"
    assert ask.error(path, authorization="Bearer other")[0] == 401
    assert ask(path, authorization=f"Bearer {secret}")[0] == 200
    url = f"http://{ask.netloc}"
    with pytest.raises(ServeError, match="key"):
        Device(url, "shop-int8", copy / "device").update()
    assert Device(url, "shop-int8", copy / "device", key=secret).update().is_new


@pytest.mark.slow
def test_bundles_can_be_switched_off(copy, start):
    assert Asking(start(copy, "shop-int8", "--set", "serve.bundles=false"))("/v1/bundles/shop-int8")[0] == 404


@pytest.mark.slow
def test_a_restarted_server_knows_what_it_gave_out(copy, start):
    manifest, _ = Asking(start(copy, "shop-int8")).manifest("shop-int8")
    again = Asking(start(copy, "shop-int8"))
    for each in manifest["files"]:
        assert again(f"/v1/bundles/shop-int8/files/{each['digest']}")[0] == 200


def test_what_was_made_for_old_versions_goes(copy, publish):
    models = copy / "models"
    shelf = Shelf(models)
    first = shelf.content("shop-int8@1")
    (models / ".bundles" / "patches").mkdir()
    for name in (f"{'a' * 64}-{first.files[0].digest}.none", f"{'a' * 64}-{'b' * 64}.none"):
        (models / ".bundles" / "patches" / name).write_bytes(b"")
    for number in range(2, KEPT_VERSIONS + 2):
        assert (models / ".bundles" / "shop-int8@1").is_dir()
        assert shelf.content(publish(copy, "shop-int8")).version == f"shop-int8@{number}"
    left = {path.name for path in (models / ".bundles").iterdir()}
    assert left == {"patches", *(f"shop-int8@{number}" for number in range(2, KEPT_VERSIONS + 2))}
    assert not list((models / ".bundles" / "patches").iterdir())
    assert shelf.content("shop-int8@1").files == first.files


@pytest.mark.slow
def test_a_language_model_goes_whole_and_not_to_a_phone(tmp_path, start):
    from gyral.model.lm import LM

    from ..openai.conftest import publish_lm

    publish_lm(tmp_path)
    url = start(tmp_path, "tiny")
    status, error = Asking(url).error("/v1/bundles/tiny", x_gyral_tier="phone")
    assert status == 409 and "torch" in error["why"] and "executorch" in error["why"]
    device = Device(url, "tiny", tmp_path / "device", "laptop")
    assert device.update().model == "tiny@1"
    told = LM.load(device.current).complete("Once", 12, temperature=0)
    assert told.text == LM.load(tmp_path / "models" / "tiny@1").complete("Once", 12, temperature=0).text
