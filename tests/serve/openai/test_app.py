"""OpenAI's own client against a real server process; its types are strict about what they read."""

import asyncio
import http.client
import json
import time
from urllib.parse import urlsplit

import jsonschema
import numpy as np
import openai
import pytest

from gyral.event.codec import decode_payload
from gyral.log.sqlite import SqliteLog
from gyral.model.lm import LM

from .conftest import SMALL, publish_lm, started


@pytest.fixture(scope="module", params=[0, pytest.param(1, marks=pytest.mark.slow)], ids=["inline", "a worker"])
def workers(request):
    """The same must hold whoever writes: the server's process, or one copy in another."""
    return request.param


@pytest.fixture(scope="module")
def lm_root(tmp_path_factory, workers):
    root = tmp_path_factory.mktemp("lm")
    publish_lm(root)
    return root


@pytest.fixture(scope="module")
def reader(lm_root):
    return LM.load(lm_root / "models" / "tiny@1")


@pytest.fixture(scope="module")
def server(lm_root, workers):
    with started(lm_root, "tiny", *SMALL, f"serve.workers={workers}") as (url, _):
        yield url


HELLO = [{"role": "user", "content": "Hello"}]
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
TOOL = [{"role": "tool", "content": "x", "tool_call_id": "1"}]
ENDLESS = {"logit_bias": {"256": -100}}


def form(schema):
    """A response format of this schema."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", **schema}}}


WHERE = "response_format.json_schema.schema"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["a", 'b"', "ß"]},
        "sizes": {"type": "array", "items": {"type": "number"}, "maxItems": 2},
        "inner": {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False},
    },
    "required": ["name", "sizes", "inner"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}


def raw(server, method, path, body=b"", headers=()):
    """Status, headers, decoded body."""
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=30)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), json.loads(answer.read())
    finally:
        connection.close()


def logged(root):
    """Event id → event, of everything the servers logged."""
    with SqliteLog(root / "lake" / "log") as log:
        return {
            row["event_id"]: row
            for name in log.partitions()
            if name.startswith("serve")
            for entry in log.read(name, 0)
            for row in decode_payload(entry.payload)["events"].to_pylist()
        }


def test_a_completion_is_what_the_model_writes(client, reader, lm_root):
    told = client.completions.create(model="tiny", prompt="Once", max_tokens=24, temperature=0, user="somebody")
    expected = reader.complete("Once", 24, temperature=0)
    assert told.choices[0].text == expected.text and told.choices[0].finish_reason == "length"
    assert (told.object, told.model) == ("text_completion", "tiny") and told.id.startswith("cmpl-")
    assert told.usage.prompt_tokens == 5 and told.usage.completion_tokens == 24 and told.usage.total_tokens == 29
    deadline = time.monotonic() + 10
    while told.id not in (found := logged(lm_root)) and time.monotonic() < deadline:
        time.sleep(0.05)
    props = json.loads(found[told.id]["props"])
    assert found[told.id]["kind"] == "completion" and found[told.id]["subject"] == "somebody"
    assert props["text"] == expected.text and props["prompt"] == "Once" and props["model"] == "tiny@1"


def test_a_stream_is_the_whole_answer_in_pieces(client):
    asked = dict(model="tiny", messages=HELLO, max_completion_tokens=40, temperature=1.5, seed=7, n=2, logprobs=True)
    whole = client.chat.completions.create(**asked, top_logprobs=3)
    events = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert events[-1].usage.total_tokens == whole.usage.total_tokens and events[-1].choices == []
    assert {event.id for event in events} == {events[0].id} and events[0].object == "chat.completion.chunk"
    for number in range(2):
        mine = [choice for event in events for choice in event.choices if choice.index == number]
        assert mine[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in mine) == whole.choices[number].message.content
        assert [choice.finish_reason for choice in mine if choice.finish_reason] == [whole.choices[number].finish_reason]
        probs = [one.logprob for choice in mine if choice.logprobs for one in choice.logprobs.content]
        expected = [one.logprob for one in whole.choices[number].logprobs.content]
        np.testing.assert_allclose(probs, expected, atol=1e-4)  # the second time its prompt was found, and read in other parts
    assert whole.choices[0].message.content != whole.choices[1].message.content
    place = whole.choices[0].logprobs.content[0]
    assert len(place.top_logprobs) == 3 and place.top_logprobs[0].logprob >= place.top_logprobs[1].logprob
    assert sum(len(one.bytes) for one in whole.choices[0].logprobs.content) >= len(whole.choices[0].message.content.encode())


def test_prompts_of_all_kinds(client, reader):
    listed = client.completions.create(model="tiny@1", prompt=["Once", "Twice"], max_tokens=8, temperature=0, n=2, echo=True)
    assert [each.index for each in listed.choices] == [0, 1, 2, 3]
    once, twice = (word + reader.complete(word, 8, temperature=0).text for word in ("Once", "Twice"))
    assert [each.text for each in listed.choices] == [once, once, twice, twice]
    tokens = client.completions.create(model="default", prompt=[256, *b"Once"], max_tokens=8, temperature=0, logprobs=2)
    assert "Once" + tokens.choices[0].text == once
    probs = tokens.choices[0].logprobs
    assert len(probs.tokens) == len(probs.token_logprobs) == len(probs.text_offset) == 8 and len(probs.top_logprobs[0]) == 2
    streamed = client.completions.create(model="tiny", prompt="Once", max_tokens=8, temperature=0, echo=True, stream=True)
    assert "".join(each.choices[0].text for each in streamed) == once


def test_stop_texts_and_limits(client, reader):
    text = reader.complete("Once", 40, temperature=0).text
    stop = text[10:13]
    told = client.completions.create(model="tiny", prompt="Once", max_tokens=40, temperature=0, stop=[stop, "\0never"])
    assert told.choices[0].text == text[: text.find(stop)] and told.choices[0].finish_reason == "stop"
    streamed = client.completions.create(model="tiny", prompt="Once", max_tokens=40, temperature=0, stop=stop, stream=True)
    assert "".join(each.choices[0].text for each in streamed) == told.choices[0].text
    assert client.completions.create(model="tiny", prompt="x", max_tokens=0).choices[0].text == ""
    assert client.completions.create(model="tiny", prompt="x").usage.completion_tokens <= 16


def test_penalties_and_biases_change_what_is_drawn(client):
    def asked(**more):
        return client.completions.create(model="tiny", prompt="Once", max_tokens=30, temperature=0, **more).choices[0].text

    assert asked(logit_bias={"65": 100}) == "A" * 30
    varied = asked(logit_bias={str(byte): 30 for byte in b"ABC"}, presence_penalty=2, frequency_penalty=2)
    alone = asked(logit_bias={str(byte): 30 for byte in b"ABC"})
    assert set(varied) <= set("ABC") and len(set(varied)) >= len(set(alone))
    assert max(map(varied.count, "ABC")) < max(max(map(alone.count, "ABC")), 16)


def test_any_answer_follows_its_schema(client):
    asked = dict(model="tiny", messages=HELLO, max_tokens=4_000, temperature=2, response_format=FORM, n=6)
    told = client.chat.completions.create(**asked, seed=3)
    for choice in told.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), SCHEMA)
    assert len({choice.message.content for choice in told.choices}) == 6
    told = client.chat.completions.create(**{**asked, "n": 1, "response_format": {"type": "json_object"}, "seed": 0})
    assert isinstance(json.loads(told.choices[0].message.content), dict)


def test_embeddings_come_as_numbers_and_as_base64(client, reader):
    told = client.embeddings.create(model="tiny", input=["one", "two"])  # the client asks for base64
    expected = reader.embed(["one", "two"])
    np.testing.assert_array_equal(np.array([each.embedding for each in told.data], np.float32), expected)
    plain = client.embeddings.create(model="tiny", input=[*b"one"], encoding_format="float")
    np.testing.assert_allclose(plain.data[0].embedding, expected[0], rtol=1e-6)
    assert told.usage.prompt_tokens == 6 and told.object == "list"
    with pytest.raises(openai.BadRequestError, match="32 dimensions"):
        client.embeddings.create(model="tiny", input="one", dimensions=8)


def test_models_are_listed(client):
    assert {each.id for each in client.models.list()} == {"tiny@1", "tiny", "default"}
    assert client.models.retrieve("tiny").owned_by == "gyral"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found" and caught.value.param == "model"


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"model": "gpt-9"}, "model", "model_not_found"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"extra_body": {"temprature": 1}}, "temprature", "unknown_parameter"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"max_tokens": "many"}, "max_tokens", "invalid_type"),
        ({"messages": TOOL}, "messages[0].role", "invalid_value"),
        ({"messages": PICTURE}, "messages[0].content[0]", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x" * 400}]}, "messages", "context_length_exceeded"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        (form({"schema": {"type": "nope"}}), WHERE, "invalid_json_schema"),
        (form({}), WHERE, "missing_required_parameter"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_refused_says_what_and_where(client, more, param, code, stream):
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": HELLO, "max_tokens": 4, "stream": stream, **more})
    error = caught.value
    assert error.status_code == (404 if code == "model_not_found" else 400)
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert error.body["what"] and error.body["where"] == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/chat/completions", b"", 405),
        ("POST", "/v1/models", b"{}", 405),
        ("POST", "/v1/completions", b"", 400),
        ("POST", "/v1/completions", b"[1]", 400),
        ("POST", "/v1/completions", b'{"model": "tiny", "prompt": "\xff"}', 400),
        ("POST", "/v1/completions", b'{"prompt": "x"}', 400),
        ("POST", "/v1/completions", b'{"model": "tiny", "prompt": [1, "x"]}', 400),
        ("POST", "/v1/completions", b'{"model": "tiny", "prompt": [[]]}', 400),
        ("POST", "/v1/completions", b'{"model": "tiny", "prompt": [true]}', 400),
        ("POST", "/v1/completions", b'{"model": "tiny", "prompt": [9999]}', 400),
        ("POST", "/v1/completions", b'{"model": "tiny", "prompt": "x", "n": 17}', 400),
        ("POST", "/v1/completions", b'{"model": "tiny", "prompt": ["x", "y"], "n": 16}', 400),
        ("POST", "/v1/completions", b'{"model": "tiny", "prompt": "x", "suffix": "y"}', 400),
        ("POST", "/v1/completions", b'{"model": "tiny", "prompt": "x", "logit_bias": {"a": 1}}', 400),
        ("POST", "/v1/completions", b'{"model": "tiny", "prompt": ' + b"[" * 5_000, 400),
        ("POST", "/v1/chat/completions", b'{"model": "tiny", "messages": []}', 400),
        ("POST", "/v1/chat/completions", b'{"model": "tiny", "messages": [{"content": "x"}]}', 400),
        ("POST", "/v1/embeddings", b'{"model": "tiny", "input": []}', 400),
        ("POST", "/v1/embeddings", b'{"model": "tiny", "input": {"a": 1}}', 400),
        ("POST", "/v1/completions", b'{"model": "tiny", "prompt": "' + b"x" * 70_000 + b'"}', 413),
        ("POST", "/v1/completions/more", b"{}", 404),
    ],
)  # fmt: skip
def test_no_body_makes_a_500(server, method, path, body, status):
    found, headers, told = raw(server, method, path, body)
    assert found == status and headers["content-type"] == "application/json"
    error = told["error"]
    assert error["message"] and error["type"] == "invalid_request_error" and {"param", "code", "why", "hint"} <= error.keys()


def test_deadlines_and_versions_are_headers(server):
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 5_000, **ENDLESS}).encode()
    found, headers, told = raw(server, "POST", "/v1/completions", body, {"x-deadline-ms": "200"})
    assert found == 504 and told["error"]["code"] == "deadline_exceeded" and headers["x-model-version"] == "1"
    assert raw(server, "POST", "/v1/completions", body, {"x-deadline-ms": "soon"})[0] == 400


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_takes_its_request_with_it(server, client, stream):
    """Sixteen texts fill the batch: while they are written, nobody else is."""
    asked = {"model": "tiny", "prompt": "x", "max_tokens": 60_000, "n": 16, "stream": stream}
    body = json.dumps(asked | ENDLESS).encode()
    for _ in range(2):
        connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=30)
        connection.request("POST", "/v1/completions", body)
        if stream:
            answer = connection.getresponse()
            assert answer.read1(64).startswith(b"data: {")
            answer.close()
        else:
            time.sleep(0.3)
        connection.close()
    assert client.completions.create(model="tiny", prompt="x", max_tokens=2).usage.completion_tokens == 2


def test_many_at_once_get_what_each_gets_alone(server, reader):
    prompts = [f"number {number}" for number in range(20)]

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(
                *(client.completions.create(model="tiny", prompt=each, max_tokens=6, temperature=0) for each in prompts)
            )

    told = [each.choices[0].text for each in asyncio.run(ask())]
    assert told == [reader.complete(each, 6, temperature=0).text for each in prompts]
    assert len(set(told)) > 10


def test_streams_of_all_kinds_at_once_are_what_each_is_alone(server):
    """Chats and completions, several answers, penalties, a schema, stop texts: each greedy, each alone and all together."""
    kinds = [
        {"messages": [{"role": "user", "content": "Hello " * 6}], "max_tokens": 30},
        {"messages": HELLO, "max_tokens": 30, "n": 2, "frequency_penalty": 0.5},
        {"messages": HELLO, "max_tokens": 200, "response_format": FORM, "logit_bias": {"32": 2}},
        {"prompt": "Once upon a time", "max_tokens": 25, "stop": ["e", "zz"]},
        {"prompt": ["Twice", "Once upon a time there"], "max_tokens": 20, "logit_bias": {"65": 3}},
    ]

    async def written(client, asked):
        kind = client.chat.completions if "messages" in asked else client.completions
        texts = {}
        async for event in await kind.create(model="tiny", temperature=0, stream=True, **asked):
            for choice in event.choices:
                more = choice.delta.content if "messages" in asked else choice.text
                texts[choice.index] = texts.get(choice.index, "") + (more or "")
        return texts

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
            alone = [await written(client, asked) for asked in kinds]
            return alone, await asyncio.gather(*(written(client, asked) for asked in 3 * kinds))

    alone, together = asyncio.run(ask())
    assert together == 3 * alone and all(alone)


def test_other_ways_to_ask_go_on_beside_a_full_batch(server, client, reader):
    """`/v1/score`, `/v1/complete` and vectors, while sixteen texts are written."""
    endless = client.completions.create(model="tiny", prompt="x", max_tokens=60_000, n=16, stream=True, extra_body=ENDLESS)
    next(endless)
    status, _, scored = raw(server, "POST", "/v1/score", b'{"texts": ["Once", "upon a time"]}')
    assert status == 200
    np.testing.assert_allclose(scored["bits"], reader.score(["Once", "upon a time"]).bits, rtol=1e-3)
    status, _, told = raw(server, "POST", "/v1/complete", b'{"prompt": "Once", "max_tokens": 12, "temperature": 0}')
    assert status == 200 and told["text"] == reader.complete("Once", 12, temperature=0).text
    vector = client.embeddings.create(model="tiny", input="Once", encoding_format="float").data[0].embedding
    np.testing.assert_allclose(vector, reader.embed(["Once"])[0], rtol=1e-5, atol=1e-6)
    next(endless)
    endless.close()


def test_a_full_queue_says_when_to_come_back(server, client):
    """Forty texts may wait: of four asks of sixteen endless ones the last finds them all taken."""
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 60_000, "n": 16, **ENDLESS}).encode()
    connections = [http.client.HTTPConnection(urlsplit(server).netloc, timeout=30) for _ in range(4)]
    try:
        for connection in connections:
            connection.request("POST", "/v1/completions", body)
        deadline = time.monotonic() + 20
        caught = None
        while caught is None and time.monotonic() < deadline:
            try:
                client.with_options(timeout=2).completions.create(model="tiny", prompt="y", max_tokens=1)
            except openai.RateLimitError as error:
                caught = error
            except openai.APITimeoutError:
                pass
        assert caught is not None and caught.code == "rate_limit_exceeded" and caught.type == "rate_limit_error"
        assert 1 <= int(caught.response.headers["retry-after"]) <= 60
    finally:
        for connection in connections:
            connection.close()
    patient = client.with_options(max_retries=5)  # it comes back when it was told to
    assert patient.completions.create(model="tiny", prompt="x", max_tokens=2).usage.completion_tokens == 2


def test_a_new_version_takes_over_between_requests(client, server, lm_root):
    """Last in this file: it leaves another version behind."""
    begun = client.completions.create(model="tiny", prompt="Once", max_tokens=400, temperature=0, seed=1, stream=True)
    first = next(begun).choices[0].text
    folder = publish_lm(lm_root, seed=2)
    deadline = time.monotonic() + 20
    while "tiny@2" not in {each.id for each in client.models.list()} and time.monotonic() < deadline:
        time.sleep(0.05)
    new = client.completions.with_raw_response.create(model="tiny", prompt="Once", max_tokens=8, temperature=0)
    assert new.headers["x-model-version"] == "2"
    assert new.parse().usage.prompt_tokens_details.cached_tokens == 0  # which the version before has read
    assert new.parse().choices[0].text == LM.load(folder).complete("Once", 8, temperature=0).text
    rest = first + "".join(each.choices[0].text for each in begun)
    assert rest == LM.load(lm_root / "models" / "tiny@1").complete("Once", 400, temperature=0).text
