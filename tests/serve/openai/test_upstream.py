"""Another server as the engine: a real one of gyral's own, and one that speaks the protocol badly.

What is held is the protocol, as OpenAI's client sees it; vLLM itself is in `test_vllm`.
"""

import contextlib
import http.server
import json
import subprocess
import sys
import threading
import time

import openai
import pytest

from gyral.config.sections import Decode
from gyral.errors import InputError, ServeError
from gyral.model import card as cards
from gyral.model.lm import LM
from gyral.serve.engine import Ask
from gyral.serve.openai.engines import Engines
from gyral.serve.openai.upstream import Remote
from gyral.serve.openai.wire import CHAT, COMPLETIONS, EMBEDDINGS
from gyral.serve.packaged import is_source, packaged

from ... import verbs

ENDLESS = {"logit_bias": {"256": -100}}


def ask(id, path=COMPLETIONS, deadline_s=float("inf"), **body):
    return Ask(id, path, json.dumps({"model": "mine", **body}).encode(), deadline_s, "", bool(body.get("stream")))


def heard(engine, *asks, most_s=30):
    """All parts of each ask until all have ended."""
    parts = {each.id: [] for each in asks}
    for each in asks:
        engine.submit(each)
    until = time.monotonic() + most_s
    while not all(each and each[-1].is_last for each in parts.values()):
        assert time.monotonic() < until
        for part in engine.step():
            parts[part.id].append(part)
    return parts


@pytest.fixture
def newest(lm_root):
    """The version that the server behind answers with by now."""
    return LM.load(cards.find(lm_root, "tiny"))


@contextlib.contextmanager
def relaying(remote, root):
    engine = Engines(Decode(), root)(remote)
    try:
        yield engine
    finally:
        engine.close()
        engine.close()


def test_answers_are_those_of_the_server_behind(server, newest, lm_root):
    assert is_source(f"openai:{server}")
    remote = packaged(f"openai:{server}/v1#tiny", print).default
    assert remote.card["family"] == "lm" and remote.name == "tiny@1"
    expected = newest.complete("Once", 12, temperature=0).text
    asked = dict(prompt="Once", max_tokens=12, temperature=0)
    with relaying(remote, lm_root) as engine:
        chat = dict(messages=[{"role": "user", "content": "x"}], max_tokens=5)
        told = heard(
            engine, ask(1, **asked), ask(2, stream=True, stream_options={"include_usage": True}, **asked),
            ask(3, EMBEDDINGS, input=["a", "b"]), ask(4, CHAT, **chat), ask(5, prompt="x", temperature=9),
        )  # fmt: skip
        whole = json.loads(told[1][0].body)
        assert whole["choices"][0]["text"] == expected and not {"id", "object", "model", "created"} & whole.keys()
        assert told[1][0].props == {"prompt": "Once", "text": expected, "tokens": 12, "prompt_tokens": 5}
        events = [json.loads(part.body) for part in told[2]]
        assert "".join(each["text"] for event in events for each in event["choices"]) == expected
        assert events[-1]["usage"]["completion_tokens"] == 12 and told[2][-1].props["text"] == expected
        assert [part.is_last for part in told[2]] == [False] * (len(told[2]) - 1) + [True] and len(told[2]) > 5
        assert len(json.loads(told[3][0].body)["data"]) == 2
        assert json.loads(told[4][0].body)["choices"][0]["message"]["role"] == "assistant"
        assert told[5][0].status == 400 and json.loads(told[5][0].body)["error"]["param"] == "temperature"
    route = remote.routes["/v1/complete"]
    assert route.answer(route.request(prompt="Once", max_tokens=12, temperature=0)).body["text"] == expected


def test_who_goes_is_gone_behind_too_and_who_is_late_is_told(server, lm_root):
    with relaying(Remote(f"openai:{server}#tiny"), lm_root) as engine:
        endless = dict(prompt="x", max_tokens=60_000, n=16, stream=True, **ENDLESS)
        for id in (1, 2, 3):  # would fill the batch behind for good
            engine.submit(ask(id, **endless))
            until = time.monotonic() + 20
            while not engine.step():
                assert time.monotonic() < until
            engine.cancel(id)
        assert heard(engine, ask(4, prompt="x", max_tokens=2))[4][0].status == 200
        late = heard(engine, ask(5, deadline_s=0.3, **{**endless, "stream": False}))[5][0]
        assert late.status == 504 and json.loads(late.body)["error"]["code"] == "deadline_exceeded"


def test_what_is_not_there_is_said(server, unused_port):
    with pytest.raises(InputError, match="no `gpt-9`") as caught:
        Remote(f"openai:{server}#gpt-9")
    assert "#tiny" in caught.value.hint
    for address in (f"http://127.0.0.1:{unused_port}", "no address", "http://[::1"):
        with pytest.raises(ServeError, match="no server"):
            Remote(f"openai:{address}")


class Bad(http.server.BaseHTTPRequestHandler):
    """Lists a model, then breaks off, talks nonsense, or is busy."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.said(200, b'{"data": [{"id": "org/bad"}]}')

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert asked["model"] == "org/bad"
        if asked["prompt"] == "busy":
            self.said(503, b"later", ("retry-after", "7"))
        elif asked["prompt"] == "nonsense":
            self.said(200, b"<html>")
        elif asked["prompt"] == "odd":
            self.said(200, b'{"choices": [3]}')
        elif asked["prompt"] == "detail":
            self.said(404, b'{"detail": "Not Found"}')
        elif asked["prompt"].startswith("error"):
            code = asked["prompt"].removeprefix("error").encode()
            events = [b'{"choices": []}', b'{"error": {"message": "no grammar", "code": %s}}' % code, b"[DONE]"]
            self.said(200, b"".join(b"data: %s\n\n" % each for each in events))
        else:
            self.said(200, b'data: {"choices": [{"index": 0, "text": "a", "finish_reason": null}]}\n\ndata: [DONE]\n\n')

    def said(self, status, body, *headers):
        self.send_response(status)
        for name, value in (*headers, ("content-length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def bad():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bad)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def unused_port(bad):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bad)
    server.server_close()
    return server.server_port


def test_a_server_that_answers_badly_is_told_as_an_error(bad, lm_root):
    with relaying(Remote(f"openai:{bad}"), lm_root) as engine:
        told = heard(engine, ask(1, prompt="busy"), ask(2, prompt="nonsense"), ask(3, prompt="x", stream=True))
        assert told[1][0].status == 503 and told[1][0].props == {"retry_after": "7"}
        assert told[2][0].status == 502 and "no answer" in json.loads(told[2][0].body)["error"]["message"]
        assert [part.status for part in told[3]] == [200, 502] and told[3][-1].is_last
        told = heard(engine, ask(4, prompt="odd"), ask(5, prompt="detail"))
        assert told[4][0].status == 502 and told[5][0].status == 404
        assert "Not Found" in json.loads(told[5][0].body)["error"]["message"]


@pytest.mark.parametrize(("code", "status"), [("400", 400), ("null", 502), ("7", 502)])
def test_an_error_in_a_stream_is_its_one_end(bad, lm_root, code, status):
    """vLLM says so of a grammar that it cannot follow, once it has begun to answer."""
    with relaying(Remote(f"openai:{bad}"), lm_root) as engine:
        parts = heard(engine, ask(1, prompt=f"error{code}", stream=True))[1]
        time.sleep(0.1)
        assert [part.status for part in parts] == [200, status] and not engine.step()
        assert json.loads(parts[-1].body)["error"]["message"] == "no grammar"


@pytest.mark.slow
def test_a_server_before_a_server_is_asked_by_openais_client(server, newest, tmp_path):
    command = [sys.executable, "-P", "-m", "gyral", "serve", f"openai:{server}#tiny", "--root", str(tmp_path), "--port", "0"]
    with verbs.popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            line = child.stdout.readline()
            assert line, child.stderr.read().decode()
            with openai.OpenAI(base_url=json.loads(line)["url"] + "/v1", api_key="none", max_retries=0) as client:
                asked = dict(model="tiny", prompt="Once", max_tokens=20, temperature=0)
                told = client.completions.create(**asked)
                pieces = [each.choices[0].text for each in client.completions.create(**asked, stream=True)]
            assert told.choices[0].text == newest.complete("Once", 20, temperature=0).text == "".join(pieces)
            assert told.model == "tiny" and told.id.startswith("cmpl-")
        finally:
            child.terminate()
            child.wait(20)
