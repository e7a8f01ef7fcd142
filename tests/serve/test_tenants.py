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
    """A server of language models with HTTPS that was started before there was a key."""
    cert, key = certificate(tmp_path)
    for name in ("tiny", "other"):
        publish_lm(tmp_path / "lm", name=name)
    publish_lm(tmp_path / "lm", name="tiny-int8", made_from="tiny@1")
    publish_lm(tmp_path / "lm", name="tiny-shop")
    slots = {"second": "other@1", "small": "tiny-int8@1", "unlike": "tiny-shop@1"}
    (tmp_path / "lm" / "models" / "tiny.slots.json").write_text(json.dumps(slots))
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
            ("leaves", "--may", "ask", "--tokens", "1"), ("goes", "--may", "ask", "--tokens", "1"),
        )
    }  # fmt: skip
    until(lambda: server.ask("GET", "/v1/models")[0] == 401, "the first key is not noticed")
    until(lambda: server.ask("GET", "/serving.json")[0] == 401, "pages do not notice it")
    # each file is looked at once a second
    paths = dict.fromkeys(("app", "few", "leaves", "goes"), "/v1/models") | {"eyes": "/metrics"}
    until(
        lambda: all(server.ask("GET", path, authorization=f"Bearer {made[name]}")[0] == 200 for name, path in paths.items()),
        "a key is not known",
    )
    told, wrong = [], "gyral-wrong-key-that-somebody-sent"
    with of(server, made["app"], cert) as client, of(server, made["few"], cert) as few, of(server, wrong, cert) as nobody:
        asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        answer = client.chat.completions.create(model="tiny", **asked)
        assert answer.usage.completion_tokens == 4
        mine = {"tiny@1", "tiny", "default", "tiny-int8@1", "tiny-int8", "small"}
        assert {each.id for each in client.models.list()} == mine, "what was compressed from it is its own, by the card"
        assert client.chat.completions.create(model="tiny-int8", **asked).usage.completion_tokens == 4
        for other in ("tiny-shop", "unlike"):
            with pytest.raises(openai.PermissionDeniedError, match="`app` may not ask `tiny-shop@1`"):
                client.chat.completions.create(model=other, **asked)
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
        with of(server, made["eyes"], cert) as eyes, pytest.raises(openai.PermissionDeniedError) as other:
            eyes.chat.completions.create(model="tiny", **asked)
        assert other.value.body["what"] == "the key `eyes` may not ask models" and other.value.type == "permission_error"
        assert other.value.body["hint"] == "it may see pages" and "www-authenticate" not in other.value.response.headers
        status, _, body = server.ask("POST", "/v1/events", json.dumps([EVENT]), authorization=f"Bearer {made['app']}")
        assert status == 403 and json.loads(body)["error"]["hint"] == "it may ask `tiny`"
        assert server.ask("GET", "/metrics", authorization=f"Bearer {made['app']}")[0] == 403
        status, _, described = server.ask("GET", "/v1/model", authorization=f"Bearer {made['app']}")
        assert status == 200 and "other" not in json.loads(described)["slots"].values()
        assert server.ask("GET", "/v1/bundles/other", authorization=f"Bearer {made['app']}")[0] == 403
        _leave_in_the_midst(server, made, cert)
        seen = {"authorization": f"Bearer {made['eyes']}", "accept": "text/html"}
        pages = [
            server.ask("GET", path, **seen) for path in ("/metrics", "/serving", "/serving.json", "/runs", "/openapi.json")
        ]
        assert {status for status, *_ in pages} == {200}
        assert 'route="/v1/chat/completions",status="403"' in pages[0][2]
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


def _leave_in_the_midst(server, made, cert):
    """Of a stream, and of an answer that is not one: what was read for it is charged, at a token a second."""
    asked = {"model": "tiny", "prompt": "x" * 200, "max_tokens": 60_000, "extra_body": {"logit_bias": {"256": -100}}}
    with of(server, made["leaves"], cert) as client:
        stream = client.completions.create(stream=True, **asked)
        next(stream)
        stream.close()
    with of(server, made["goes"], cert) as client, pytest.raises(openai.APITimeoutError):
        client.completions.create(**asked, timeout=3)
    for name in ("leaves", "goes"):
        with of(server, made[name], cert) as client, pytest.raises(openai.RateLimitError) as spent:
            client.completions.create(model="tiny", prompt="x", max_tokens=1)
        assert 190 < int(spent.value.response.headers["retry-after"]) < 300, name


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
    until(lambda: server.send(**good) == 200, "the key is not known")
    secret_of_app = keys(root, "add", "app", "--may", "ask")["key"]
    until(lambda: server.send(Authorization=f"Bearer {secret_of_app}") == 403, "a key that may ask is not told so")
    assert server.send(Authorization="Bearer nobodys") == 401

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
