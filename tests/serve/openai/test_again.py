"""Answers told again to like questions: by a real server, with the official client."""

import json
import subprocess
import sys
import time

import numpy as np
import openai
import pytest

from gyral.keys import new_key
from gyral.model.lm import LM

from ... import verbs
from .conftest import publish_lm
from .test_app import logged

FIRST, LIKE, OTHER = "Once upon a time", "Once upon a time.", "9 x 9 = 81"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A project, its model, the address of its server, and two keys."""
    root = tmp_path_factory.mktemp("again")
    reader = LM.load(publish_lm(root))
    pairs = [cosine(reader, FIRST, each) for each in (LIKE, OTHER)]
    assert pairs[0] > pairs[1] + 0.1
    keys = [new_key() for _ in range(2)]
    lines = [f'[[serve.keys]]\nname = "key{n}"\nsha256 = "{digest}"' for n, (_, digest) in enumerate(keys)]
    (root / "gyral.toml").write_text(f"[serve]\nalike = {sum(pairs) / 2:.4f}\n" + "\n".join(lines))
    command = [sys.executable, "-P", "-m", "gyral", "serve", "tiny", "--root", str(root), "--port", "0", "--json"]
    child = verbs.popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    yield root, reader, json.loads(child.stdout.readline())["url"], [key for key, _ in keys]
    child.kill()
    child.wait()
    child.stdout.close()


def cosine(reader, *texts):
    one, other = (reader.vector(reader.tokens(each)) for each in texts)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.fixture
def ask(told):
    """Ask for a completion; its text, how like it was to another one's question, and its id."""
    _, _, url, keys = told

    def asked(prompt, key=0, **more):
        with openai.OpenAI(base_url=f"{url}/v1", api_key=keys[key], max_retries=0, timeout=60) as client:
            fields = {"model": "tiny", "max_tokens": 12, "temperature": 0, **more}
            if "messages" in fields:
                raw = client.chat.completions.with_raw_response.create(**fields)
                text = raw.parse().choices[0].message.content
            else:
                raw = client.completions.with_raw_response.create(prompt=prompt, **fields)
                text = raw.parse().choices[0].text
            return text, raw.headers.get("x-gyral-alike"), raw.parse().id

    return asked


def test_a_like_question_is_told_the_same_and_that_it_is_another_ones(told, ask):
    root, reader, _, _ = told
    text, alike, first = ask(FIRST, user="somebody")
    assert (
        alike is None
        and text == reader.complete(FIRST, 12, temperature=0).text != reader.complete(LIKE, 12, temperature=0).text
    )
    again, alike, other = ask(LIKE, user="somebody")
    assert again == text and other != first and float(alike) == pytest.approx(cosine(reader, FIRST, LIKE), abs=1e-4)
    assert ask(OTHER, user="somebody")[:2] == (reader.complete(OTHER, 12, temperature=0).text, None)
    deadline = time.monotonic() + 10
    while other not in (found := logged(root)) and time.monotonic() < deadline:
        time.sleep(0.05)
    props = json.loads(found[other]["props"])
    assert props["alike_to"] == first and props["alike"] == float(alike) and props["tokens"] == 0
    assert props["prompt"] == LIKE and props["text"] == text and "alike" not in json.loads(found[first]["props"])


def test_nothing_is_told_across_keys_fields_or_what_was_said_before(told, ask):
    reader = told[1]
    ask(FIRST)
    assert ask(LIKE)[1] is not None
    expected = reader.complete(LIKE, 12, temperature=0).text
    for more in ({"key": 1}, {"user": "another"}, {"seed": 3}, {"stop": ["\0never"]}, {"model": "default"}):
        assert ask(LIKE, **more)[:2] == (expected, None), more
    assert ask(LIKE, max_tokens=5)[:2] == (reader.complete(LIKE, 5, temperature=0).text, None)
    for more in ({"temperature": 0.1}, {"temperature": openai.omit}, {"n": 2}, {"echo": True}):
        ask(FIRST, **more)
        assert ask(LIKE, **more)[1] is None, more

    def chat(first, last):
        said = [{"role": "system", "content": first}, {"role": "user", "content": last}]
        return ask("", messages=said, max_tokens=openai.omit, max_completion_tokens=12)

    text, _, _ = chat("Be short.", FIRST)
    assert chat("Be short.", LIKE)[0] == text and chat("Be short.", LIKE)[1] is not None
    assert chat("Be long!", LIKE)[1] is None and chat("Be short.", OTHER)[1] is None


def test_another_version_is_told_nothing_of_the_one_before(told, ask):
    root, _, url, keys = told
    ask(FIRST)
    assert ask(LIKE)[1] is not None
    version = publish_lm(root, seed=2).name
    with openai.OpenAI(base_url=f"{url}/v1", api_key=keys[0], max_retries=0, timeout=60) as client:
        deadline = time.monotonic() + 30
        while version not in {each.id for each in client.models.list()} and time.monotonic() < deadline:
            time.sleep(0.05)
    expected = LM.load(root / "models" / version).complete(LIKE, 12, temperature=0).text
    assert ask(LIKE)[:2] == (expected, None)
