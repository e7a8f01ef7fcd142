"""Keys, TLS and secrets from end to end: real servers, OpenAI's own client, and a look at everything that was written."""

import json
import os
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import openai
import pytest

from .listening import EVENT, certificate
from .openai.conftest import publish_lm


def keys(root, *words):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gyral", "keys", *words, "--root", str(root), "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def until(is_so, what, seconds=20):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@pytest.fixture
def spans():
    """A collector of traces: its address, and the bytes that came."""
    came = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self):
            came.append(self.headers.as_bytes() + self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Taking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", came
        server.shutdown()


@pytest.fixture
def secured(tmp_path, monkeypatch, spans, running):
    """A server of two language models with HTTPS that was started before there was a key."""
    cert, key = certificate(tmp_path)
    for name in ("tiny", "other"):
        publish_lm(tmp_path / "lm", name=name)
    (tmp_path / "lm" / "models" / "tiny.slots.json").write_text('{"second": "other@1"}')
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans[0])
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    options = ("--port", "0", "--tls-cert", str(cert), "--tls-key", str(key), "--set", "decode.running=4")
    server = running(tmp_path / "lm", "serve", "tiny", *options, trusted=cert)
    assert server.told, (tmp_path / "lm-serve.log").read_text()
    return server


def of(server, key, cert):
    """OpenAI's client."""
    trusted = httpx.Client(verify=ssl.create_default_context(cafile=cert))
    return openai.OpenAI(
        base_url=f"https://127.0.0.1:{server.port}/v1", api_key=key, max_retries=0, timeout=60, http_client=trusted
    )


def test_a_key_over_https_asks_what_is_its_own_and_no_secret_is_written(secured, spans, tmp_path):
    server, root, cert = secured, tmp_path / "lm", tmp_path / "cert.pem"
    assert server.ask("GET", "/v1/models")[0] == 200, "nothing is wanted before there is a key"
    made = {
        name: keys(root, "add", name, *words)["key"]
        for name, *words in (
            ("app", "--may", "ask", "--models", "tiny"), ("few", "--may", "ask", "--tokens", "0.001"), ("eyes", "--may", "see"),
        )
    }  # fmt: skip
    until(lambda: server.ask("GET", "/v1/models")[0] == 401, "the first key is not noticed")
    until(lambda: server.ask("GET", "/serving.json")[0] == 401, "pages do not notice it")
    paths = {"app": "/v1/models", "few": "/v1/models", "eyes": "/metrics"}  # each file is looked at once a second
    until(
        lambda: all(server.ask("GET", path, authorization=f"Bearer {made[name]}")[0] == 200 for name, path in paths.items()),
        "a key is not known",
    )
    told, wrong = [], "gyral-wrong-key-that-somebody-sent"
    with of(server, made["app"], cert) as client, of(server, made["few"], cert) as few, of(server, wrong, cert) as nobody:
        asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        answer = client.chat.completions.create(model="tiny", **asked)
        assert answer.usage.completion_tokens == 4
        assert {each.id for each in client.models.list()} == {"tiny@1", "tiny", "default"}
        with pytest.raises(openai.PermissionDeniedError, match="`app` may not ask `other@1`") as refused:
            client.chat.completions.create(model="second", **asked)
        assert refused.value.body["hint"] == "it may ask `tiny`"
        told.append(refused.value.response.text)
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="none", **asked)
        assert "other" not in missing.value.body["hint"], "who may not ask it is not told of it"
        assert [part.choices[0].delta.content for part in few.chat.completions.create(model="second", stream=True, **asked)]
        with pytest.raises(openai.RateLimitError, match="tokens a second") as spent:
            few.chat.completions.create(model="second", **asked)
        with pytest.raises(openai.AuthenticationError) as unknown:
            nobody.models.list()
        told += [spent.value.response.text, unknown.value.response.text]
        status, _, described = server.ask("GET", "/v1/model", authorization=f"Bearer {made['app']}")
        assert status == 200 and "other" not in json.loads(described)["slots"].values()
        assert server.ask("GET", "/v1/bundles/other", authorization=f"Bearer {made['app']}")[0] == 403
        seen = {"authorization": f"Bearer {made['eyes']}", "accept": "text/html"}
        pages = [
            server.ask("GET", path, **seen) for path in ("/metrics", "/serving", "/serving.json", "/runs", "/openapi.json")
        ]
        assert {status for status, *_ in pages} == {200}
        told += [text for *_, text in pages]
        keys(root, "revoke", "app")
        until(lambda: _refused(client), "a revoked key is still good")
    with pytest.raises(httpx.TransportError):  # no TLS: it is hung up on
        httpx.get(f"http://127.0.0.1:{server.port}/healthz")
    until(lambda: spans[1], "no trace came")
    server.stop()
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "key.pem"}
    assert any(path.name == "keys.toml" for path in written) and len(written) > 12, "nothing was written to look at"
    private = (tmp_path / "key.pem").read_text().splitlines()[1].encode()
    for secret in [wrong.encode(), private, *(key.encode() for key in made.values())]:
        assert not [path for path, held in written.items() if secret in held]
        assert not any(secret in each for each in [*spans[1], server.told, *(text.encode() for text in told)])


def _refused(client):
    try:
        client.models.list()
    except openai.AuthenticationError:
        return True
    return False


def test_a_collector_over_https_takes_of_a_key_what_is_its_own(tmp_path, running):
    cert, key = certificate(tmp_path)
    root = tmp_path / "shop"
    options = ("--tls-cert", str(cert), "--tls-key", str(key))
    server = running(root, "ingest", "--listen", "127.0.0.1:0", *options, trusted=cert)
    assert server.send() == 200
    secret = keys(root, "add", "phones", "--may", "send", "--kinds", "view,click")["key"]
    until(lambda: server.send() == 401, "the first key is not noticed")
    good = {"Authorization": f"Bearer {secret}"}

    def sent(*kinds):
        body = json.dumps([{**EVENT, "event_id": f"{os.urandom(4).hex()}", "kind": kind} for kind in kinds])
        return server.ask("POST", "/v1/events", body, **good)

    assert json.loads(sent("view", "click")[2])["accepted"] == 2
    status, _, told = sent("view", "purchase")
    assert status == 403 and json.loads(told)["error"] == {
        "what": "the key `phones` may not send `purchase`", "where": "/v1/events", "why": "",
        "hint": "it may send `view`, `click`",
    }  # fmt: skip
    assert json.loads(sent("click")[2])["accepted"] == 1
    assert keys(root, "list")["keys"][0]["kinds"] == ["view", "click"]
    text = (root / "keys.toml").read_text()
    (root / "keys.toml").write_text(text.replace("kinds =", "events_per_s = 1\nkinds ="))
    until(lambda: [sent("view")[0], sent("view")[0], sent("view")[0]][-1] == 429, "it keeps the rate that it had")
    keys(root, "revoke", "phones")
    until(lambda: sent("view")[0] == 401, "a revoked key is still good")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{server.port}/healthz")
    server.stop()
    private = (tmp_path / "key.pem").read_text().splitlines()[1].encode()
    for path in (path for path in Path(tmp_path).rglob("*") if path.is_file() and path.name != "key.pem"):
        assert secret.encode() not in path.read_bytes() and private not in path.read_bytes(), path
