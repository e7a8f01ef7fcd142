"""`decode.engine = "openvino"` behind the same routes, asked by OpenAI's client; what does not go with it is refused."""

import importlib.util
import json
import sys

import openai
import pytest

from gyral.config.sections import Decode
from gyral.errors import ConfigError, MissingExtra, UsageError
from gyral.model.decoding.openvino import OpenVinoForward
from gyral.model.lm import LM
from gyral.serve.openai.engines import Engines

from .conftest import SMALL, publish_lm, started

SCHEMA = {
    "type": "object", "properties": {"colour": {"enum": ["red", "blue"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["colour", "n"], "additionalProperties": False,
}  # fmt: skip
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the extra `openvino` is not installed"
)


@pytest.fixture(scope="module")
def client(lm_root):
    sets = [*SMALL, "decode.engine=openvino", "decode.draft=tiny@1"]
    with (
        started(lm_root, "tiny", *sets) as (url, _),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as found,
    ):
        yield found


@needs_openvino
def test_a_server_answers_by_it_on_the_same_routes(client, reader):
    for prompt in ("Once", "Twice " * 20, "Once again"):
        expected = reader.complete(prompt, 40, temperature=0).text
        told = client.completions.create(model="tiny", prompt=prompt, max_tokens=40, temperature=0)
        assert told.choices[0].text == expected
        stream = client.completions.create(model="tiny", prompt=prompt, max_tokens=40, temperature=0, stream=True)
        assert "".join(each.choices[0].text for each in stream) == expected
    expected = reader.complete("Once", 40, temperature=0).text
    stopped = client.completions.create(model="tiny", prompt="Once", max_tokens=40, temperature=0, stop=[expected[5:7]])
    assert stopped.choices[0].finish_reason == "stop" and stopped.choices[0].text == expected[: expected.index(expected[5:7])]
    drawn = [
        client.completions.create(model="tiny", prompt="Once", max_tokens=20, temperature=1, seed=3, logprobs=2).choices[0]
        for _ in range(2)
    ]
    assert drawn[0].text == drawn[1].text and drawn[0].logprobs.token_logprobs == drawn[1].logprobs.token_logprobs
    said = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
    )  # fmt: skip
    assert json.loads(said.choices[0].message.content)["colour"] in ("red", "blue")


@needs_openvino
def test_the_engine_is_the_one_that_was_asked_for(lm_root, reader):
    writers = {name: Engines(Decode(engine=name), lm_root)(reader) for name in ("gyral", "openvino")}
    assert isinstance(writers["openvino"]._decodes._forward, OpenVinoForward)
    assert not isinstance(writers["gyral"]._decodes._forward, OpenVinoForward)


@needs_openvino
def test_what_does_not_go_with_it_is_refused(lm_root, reader, tmp_path):
    with pytest.raises(ConfigError, match="float32 pages only") as raised:
        Engines(Decode(engine="openvino", kv="int8"), lm_root)(reader)
    assert raised.value.where == "decode.kv"
    with pytest.raises(UsageError, match="is a Gpt2"):
        Engines(Decode(engine="openvino"), tmp_path)(LM.load(publish_lm(tmp_path, layout="gpt2")))
    with pytest.raises(ConfigError, match="too small"):
        Engines(Decode(engine="openvino", kv_bytes=8_192), lm_root)(reader)  # holds a page of ours, and not one of its own


def test_without_the_package_the_extra_is_named(lm_root, reader, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match="`openvino`"):
        Engines(Decode(engine="openvino"), lm_root)(reader)
