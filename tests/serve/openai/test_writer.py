"""A writer over a real engine, asked without a network: memory, order, refusals, other layouts, guesses."""

import json
import math
import subprocess
import sys

import pytest

from gyral.config.sections import Decode
from gyral.errors import ConfigError, GyralError
from gyral.model.decoding.alone import Alone
from gyral.model.lm import LM
from gyral.serve.engine import Ask
from gyral.serve.openai.engines import Engines
from gyral.serve.openai.wire import CHAT, COMPLETIONS, EMBEDDINGS

from .conftest import LENGTH, publish_lm

ENDLESS = {"logit_bias": {"256": -100}}


def writer_of(root, model, **settings):
    return Engines(Decode(**settings), root)(model)


def asked(id, prompt="Once", path=COMPLETIONS, deadline_s=math.inf, stream=False, **more):
    body = {"model": "tiny", "temperature": 0, "max_tokens": 8, "stream": stream, **more}
    body |= {"messages": [{"role": "user", "content": prompt}]} if path == CHAT else {"prompt": prompt}
    return Ask(id, path, json.dumps(body).encode(), deadline_s, "", stream)


def finish(writer, asks, most=2_000):
    """The last part of each, in the order in which they ended."""
    for ask in asks:
        writer.submit(ask)
    ended = {}
    for _ in range(most):
        for part in writer.step():
            if part.is_last:
                ended[part.id] = (part.status, json.loads(part.body), part.props)
        if all(ask.id in ended for ask in asks):
            return ended
    raise AssertionError(f"{len(ended)} of {len(asks)} have ended")


def text(told):
    return told[1]["choices"][0]["text"]


def held(writer):
    """Pages that sequences hold, beside those of the tree."""
    holding = writer._decodes._holding
    return holding.pages.num - holding.pages.num_free - (holding.prefixes.num if holding.prefixes else 0)


def test_many_share_a_pass_and_each_writes_what_it_writes_alone(lm_root, reader):
    writer = writer_of(lm_root, reader)
    prompts = [f"{number} begins" for number in range(12)]
    before = writer._decodes.counts.passes
    told = finish(writer, [asked(number, prompt) for number, prompt in enumerate(prompts)])
    assert [text(told[number]) for number in range(12)] == [reader.complete(each, 8, temperature=0).text for each in prompts]
    assert writer._decodes.counts.passes - before < 20  # and not 12 × 8


def test_who_goes_gives_all_memory_back(lm_root, reader):
    writer = writer_of(lm_root, reader, running=8)
    writer.submit(asked(1, "x" * 100, max_tokens=9_000, n=12, **ENDLESS))
    writer.submit(asked(2, "y" * 50, max_tokens=20, stream=True, **ENDLESS))
    for _ in range(5):
        writer.step()
    assert held(writer) >= 8
    writer.cancel(1)
    writer.cancel(99)
    parts = [part for _ in range(40) for part in writer.step()]
    assert parts[-1].is_last and {part.id for part in parts} == {2} and held(writer) == 0
    assert not writer._places and not writer._jobs
    assert (writer._decodes.num_running, writer._decodes.num_waiting) == (0, 0)


def test_a_stop_text_frees_its_sequence_at_once(lm_root, reader):
    writer = writer_of(lm_root, reader)
    whole = reader.complete("Once", 40, temperature=0).text
    told = finish(writer, [asked(1, max_tokens=9_000, stop=whole[5:8], **ENDLESS)], most=20)
    assert text(told[1]) == whole[:5] and told[1][1]["choices"][0]["finish_reason"] == "stop"
    writer.step()
    assert held(writer) == 0


@pytest.mark.parametrize("is_on", [True, False])
def test_tokens_that_were_read_before_are_told(lm_root, reader, is_on):
    writer = writer_of(lm_root, reader, prefix_cache=is_on)
    long = "a beginning that many share, " * 4
    first = finish(writer, [asked(1, long + "one", n=2)])[1]
    other = finish(writer, [asked(2, long + "two", CHAT), asked(3, long + "one", n=2)])
    cached = [told[1]["usage"]["prompt_tokens_details"]["cached_tokens"] for told in (first, other[2], other[3])]
    size = first[1]["usage"]["prompt_tokens"]
    assert cached == ([0, 0, (size - 1) // 16 * 16] if is_on else [0, 0, 0])  # full pages; a chat begins otherwise
    assert [each["text"] for each in other[3][1]["choices"]] == [each["text"] for each in first[1]["choices"]]


def test_urgent_texts_come_first_and_late_ones_are_told(lm_root, reader):
    writer = writer_of(lm_root, reader, running=1)
    writer.submit(asked(1, max_tokens=10))
    writer.step()
    order = finish(writer, [asked(2, service_tier="flex"), asked(3), asked(4, service_tier="priority")], 100)
    assert [id for id in order if id != 1] == [4, 3, 2]
    late = finish(writer, [asked(5, max_tokens=9_000, deadline_s=0.2, **ENDLESS)])[5]
    assert late[0] == 504 and late[1]["error"]["code"] == "deadline_exceeded" and held(writer) == 0


def test_who_would_wait_in_vain_is_refused_at_once(lm_root, reader):
    writer = writer_of(lm_root, reader, running=2, waiting=3)
    for number in range(5):
        writer.submit(asked(number, max_tokens=9_000, **ENDLESS))
        writer.step()
    writer.submit(asked(6, deadline_s=math.inf))
    (part,) = [part for part in writer.step() if part.id == 6]
    error = json.loads(part.body)["error"]
    assert part.status == 429 and error["type"] == "rate_limit_error" and int(part.props["retry_after"]) >= 1
    writer.cancel(4)
    writer.submit(asked(7, deadline_s=1e-4))  # there is room to wait, and no time
    (part,) = [part for part in writer.step() if part.id == 7]
    assert part.status == 429 and "first token" in json.loads(part.body)["error"]["message"]
    for number in range(4):
        writer.cancel(number)
    assert finish(writer, [asked(8)])[8][0] == 200


def test_a_net_of_another_layout_is_written_with_too(tmp_path):
    reader = LM.load(publish_lm(tmp_path, layout="gpt2"))
    writer = writer_of(tmp_path, reader)
    assert isinstance(writer._decodes, Alone)
    told = finish(writer, [asked(1), asked(2, "Twice"), asked(3, max_tokens=0)])
    assert text(told[1]) == reader.complete("Once", 8, temperature=0).text
    assert text(told[2]) == reader.complete("Twice", 8, temperature=0).text and text(told[3]) == ""


@pytest.mark.parametrize("settings", [{"draft": "tiny@1"}, {"draft": "tiny@1", "guesses": 2, "kv": "int8"}, {"chunk": 3}])
def test_settings_change_the_time_and_not_the_answer(lm_root, reader, settings):
    writer = writer_of(lm_root, reader, **settings)
    told = finish(writer, [asked(1, max_tokens=30), asked(2, "Twice " * 9, max_tokens=30)])
    counts = writer._decodes.counts
    assert (counts.guessed > 0) == ("draft" in settings)
    if settings.get("kv") != "int8":  # rounded keys and values may write something else
        assert text(told[1]) == reader.complete("Once", 30, temperature=0).text
        assert text(told[2]) == reader.complete("Twice " * 9, 30, temperature=0).text
        assert counts.accepted == counts.guessed  # it guesses for itself
    else:
        assert 0 < counts.accepted <= counts.guessed


def test_a_draft_that_is_none_is_refused(lm_root, reader, tmp_path):
    with pytest.raises(GyralError, match="nobody"):
        writer_of(lm_root, reader, draft="nobody")
    publish_lm(tmp_path, layout="gpt2")
    with pytest.raises(GyralError, match="cannot guess ahead"):
        writer_of(tmp_path, reader, draft="tiny")
    with pytest.raises(ConfigError, match="too small"):
        writer_of(lm_root, reader, kv_bytes=4_096)


def test_little_memory_makes_texts_wait_and_none_wrong(lm_root, reader):
    """Pages for two windows: a dozen texts that need more give way to each other."""
    size = 2 * 2 * 16 * 2 * (8 * 4 + 4)
    writer = writer_of(lm_root, reader, kv_bytes=size * 2 * LENGTH // 16)
    asks = [asked(number, f"{number} " * 20, max_tokens=60) for number in range(12)]
    told = finish(writer, asks)
    assert writer._decodes.counts.preempted > 0
    for number in range(12):
        assert text(told[number]) == reader.complete(f"{number} " * 20, 60, temperature=0).text


def test_vectors_are_read_one_a_step_beside_texts(lm_root, reader):
    writer = writer_of(lm_root, reader)
    body = json.dumps({"model": "tiny", "input": ["one", "two", "three"], "encoding_format": "float"}).encode()
    writer.submit(Ask(1, EMBEDDINGS, body))
    writer.submit(asked(2, max_tokens=3, stream=True))
    assert [(part.id, part.body, part.props["prompt_tokens"]) for part in writer.step()] == [(1, b"", 11), (2, b"", 5)]
    steps = [[part.id for part in writer.step()] for _ in range(3)]
    assert [1 in step for step in steps] == [False, False, True] and all(2 in step for step in steps)


def test_a_version_that_was_never_asked_leaves_no_engine_behind(lm_root, reader, tmp_path):
    engines = Engines(Decode(), tmp_path)
    newer = LM.load(publish_lm(tmp_path, seed=3))
    newer.name = "tiny@2"
    assert engines.make(reader) is reader and engines.make(newer) is newer
    assert set(engines._made) == {"tiny@2"}
    assert engines(newer).version == "tiny@2" and not engines._made
    assert engines(reader).version == "tiny@1"


@pytest.mark.slow
def test_a_draft_is_named_on_the_command_line(lm_root):
    command = [
        sys.executable,
        "-P",
        "-m",
        "gyral",
        "serve",
        "tiny@1",
        "--root",
        str(lm_root),
        "--port",
        "0",
        "--draft",
        "nobody",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (1, 2) and "`nobody`" in done.stderr and "Traceback" not in done.stderr
