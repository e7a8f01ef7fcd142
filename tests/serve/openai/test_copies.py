"""Copies of a language model in worker processes: the answers of one process, through deaths and swaps, with warm caches."""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gyral.config.sections import Decode, Serve
from gyral.errors import ConfigError
from gyral.model.lm import LM
from gyral.serve.openai.opening import copied
from gyral.serve.openai.runner import Wanted
from gyral.serve.openai.wire import CHAT, beginning, decode
from gyral.serve.packaged import packaged

from ... import verbs
from ..test_packaged import written_gguf
from .conftest import publish_lm, started
from .test_app import FORM, HELLO, logged, raw

pytestmark = pytest.mark.slow
ENDLESS = {"logit_bias": {"256": -100}}
LENGTH = 1_024


@pytest.fixture(scope="module", autouse=True)
def _from_nothing():
    """Workers are told by their words, their parent and what they have loaded."""
    with verbs.from_nothing():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A project with the model `tiny@1`."""
    root = tmp_path_factory.mktemp("copies")
    publish_lm(root, length=LENGTH)
    return root


@pytest.fixture(scope="module")
def two(root):
    """The address of a server with two workers, and its process."""
    with started(root, "tiny", "serve.workers=2", "decode.running=64") as (url, child):
        yield url, child.pid


def client_of(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def many_of(url):
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def counted(url, name):
    """Label → value of one of `/metrics`."""
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return {next(iter(each.labels.values()), ""): each.value for each in samples if each.name == name}


def workers_of(pid):
    """Number → process of the workers of a server."""
    found = {}
    for each in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            if each.name.isdigit() and int((each / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                words = (each / "cmdline").read_text().split("\0")
                if "gyral.serve.worker" in words:
                    found[int(Path(words[-2]).stem.removeprefix("worker"))] = int(each.name)
    return found


def until(true, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def ready(url, num=2):
    """Whether as many workers have something in memory and can be asked."""
    return sum(value > 0 for value in counted(url, "gyral_worker_resident_bytes").values()) == num


def rounded(told):
    """Without what depends on how a prompt was read: in which parts, and what was known of it."""
    if isinstance(told, float):
        return round(told, 3)
    if isinstance(told, dict):
        return {key: rounded(each) for key, each in told.items() if key != "cached_tokens"}
    return [rounded(each) for each in told] if isinstance(told, list | tuple) else told


def answers(root, url):
    """Of everything that may be asked, whole and streamed, and what the log keeps of it."""
    asked = [
        ("completions", dict(prompt=["Once", "Twice"], n=2, temperature=0, max_tokens=12, logprobs=2, user="somebody")),
        ("completions", dict(prompt=[256, *b"Once"], temperature=1.2, seed=5, max_tokens=12)),
        ("chat", dict(messages=HELLO, temperature=0, max_tokens=16, logprobs=True, top_logprobs=3)),
        ("chat", dict(messages=HELLO, temperature=1.0, seed=3, n=3, max_tokens=16)),
        ("chat", dict(messages=HELLO, temperature=0, max_tokens=80, response_format=FORM)),
    ]
    goes_on = {"prompt": "Once", "max_tokens": 9, "temperature": 0}
    others = [("/v1/score", {"texts": ["abc", "What"]}), ("/v1/complete", goes_on)]
    found, ids = [], []
    with client_of(url) as client:
        for kind, each in asked:
            create = client.completions.create if kind == "completions" else client.chat.completions.create
            whole = create(model="tiny", **each)
            ids.append(whole.id)
            found.append(whole.model_dump(exclude={"id", "created", "usage"}) | {"tokens": whole.usage.total_tokens})
            grown = Counter()
            for event in create(model="tiny@1", **each, stream=True):
                for choice in event.choices:
                    text = choice.text if kind == "completions" else choice.delta.content
                    grown[choice.index, "text"] = (grown[choice.index, "text"] or "") + (text or "")
                    grown[choice.index, "why"] = choice.finish_reason
            found.append(dict(grown))
        vectors = client.embeddings.create(model="tiny", input=["a", "bc"])
        found.append(np.asarray([each.embedding for each in vectors.data]).round(5).tolist())
    for path, body in others:
        status, headers, told = raw(url, "POST", path, json.dumps(body).encode())
        assert status == 200 and headers["x-model-version"] == "1"
        ids.append(told.pop("request_id"))
        found.append(told)
    until(lambda: set(ids) <= logged(root).keys())
    kept = [logged(root)[each] for each in ids]
    return [*found, [(each["kind"], each["subject"], json.loads(each["props"])) for each in kept]]


def test_answers_are_those_of_one_process_and_so_is_the_log(root, two, tmp_path):
    publish_lm(tmp_path, length=LENGTH)
    with started(tmp_path, "tiny") as (url, _):
        expected = answers(tmp_path, url)
    for one, other in zip(answers(root, two[0]), expected, strict=True):
        assert rounded(one) == rounded(other)


def test_the_server_loads_no_torch_and_says_what_each_worker_did(two):
    url, pid = two
    assert len(workers_of(pid)) == 2
    for each, has_torch in [(pid, False), *((worker, True) for worker in workers_of(pid).values())]:
        assert ("libtorch_cpu" in Path(f"/proc/{each}/maps").read_text()) == has_torch
    with client_of(url) as client:
        before = counted(url, "gyral_worker_tokens_total")
        client.completions.create(model="tiny", prompt="Once", max_tokens=7, extra_body=ENDLESS)
        after = counted(url, "gyral_worker_tokens_total")
    assert sorted(after[each] - before[each] for each in after) == [0, 7]
    assert counted(url, "gyral_model_version") == {"tiny": 1}

    def page():
        with contextlib.suppress(KeyError):  # until the first line is written
            return json.load(urllib.request.urlopen(f"{url}/serving.json"))["serving"]["workers"]
        return []

    until(lambda: sum(each["tokens"] for each in page()) == sum(after.values()))
    assert {each["state"] for each in page()} == {"ready"}


def test_who_waits_for_a_worker_that_is_killed_is_asked_again_and_who_reads_is_told(root):
    """One text at a time: what is read from the worker breaks, what waits there has been told nothing yet, and goes on."""
    sets = ("serve.workers=2", "decode.running=1", "decode.waiting=2", "decode.patience_s=1e6")
    with started(root, "tiny", *sets) as (url, child), client_of(url) as client:
        asked = dict(model="tiny", messages=[{"role": "user", "content": "Hello"}], temperature=0)
        expected = client.chat.completions.create(**asked, max_tokens=12).choices[0].message.content
        reading = client.chat.completions.create(**asked, max_tokens=60_000, stream=True, extra_body=ENDLESS)
        next(reading)

        async def ask():
            async with many_of(url) as clients:
                streamed = asyncio.ensure_future(clients.chat.completions.create(**asked, max_tokens=12, stream=True))
                whole = asyncio.ensure_future(clients.chat.completions.create(**asked, max_tokens=12))
                await asyncio.sleep(0.5)
                busy = counted(url, "gyral_worker_in_flight")
                assert sorted(busy.values()) == [0, 3], busy  # of one beginning: all at one worker
                os.kill(workers_of(child.pid)[int(max(busy, key=busy.get))], signal.SIGKILL)
                events = [event async for event in await streamed]
                return events, await whole

        events, whole = asyncio.run(asyncio.wait_for(ask(), 60))
        assert "".join(each.choices[0].delta.content or "" for each in events) == expected
        assert [each.choices[0].delta.role for each in events].count("assistant") == 1
        assert whole.choices[0].message.content == expected
        with pytest.raises(openai.APIError, match="ended in the midst of the answer"):
            for _ in reading:
                pass
        until(lambda: ready(url))
        assert sum(counted(url, "gyral_worker_deaths_total").values()) == 1

        async def flood():
            """Three each are taken at most, the others refused at once; those that go leave their place."""
            async with many_of(url) as clients:
                create = clients.completions.with_raw_response.create
                endless = dict(model="tiny", max_tokens=60_000, extra_body=ENDLESS)
                tasks = [asyncio.ensure_future(create(**endless, prompt=f"{n} of many")) for n in range(16)]
                async with asyncio.timeout(30):
                    while sum(each.done() for each in tasks) < 10:
                        await asyncio.sleep(0.05)
                await asyncio.sleep(0.2)
                refused = [each.exception() for each in tasks if each.done()]
                assert sum(counted(url, "gyral_worker_in_flight").values()) == 16 - len(refused)
                for each in tasks:
                    each.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                return refused

        refused = asyncio.run(flood())
        assert 10 <= len(refused) <= 12 and {each.status_code for each in refused} == {429}
        assert all(int(each.response.headers["retry-after"]) >= 1 for each in refused)

        async def alike():
            """Of one beginning: all go to one copy, and what it has no time for to the other, which has."""
            async with many_of(url) as clients:
                endless = dict(model="tiny", prompt="of one beginning", max_tokens=60_000, extra_body=ENDLESS)
                tasks = []
                for _ in range(6):
                    tasks.append(asyncio.ensure_future(clients.completions.create(**endless)))
                    await asyncio.sleep(0.3)
                assert sorted(counted(url, "gyral_worker_in_flight").values()) == [3, 3]
                with pytest.raises(openai.RateLimitError) as refused:
                    await clients.completions.create(**endless)
                assert int(refused.value.response.headers["retry-after"]) >= 1
                for each in tasks:
                    each.cancel()
                told = await asyncio.gather(*tasks, return_exceptions=True)
                assert {type(each) for each in told} == {asyncio.CancelledError}

        asyncio.run(asyncio.wait_for(alike(), 60))
        assert client.completions.create(model="tiny", prompt="x", max_tokens=2).usage.completion_tokens == 2
        started_as = list(workers_of(child.pid).values())
    assert not [each for each in started_as if Path(f"/proc/{each}").exists()]


class Load:
    """Clients that ask all the time; what each got, by version, and what went wrong."""

    def __init__(self, url, clients=6):
        self.url, self.clients, self.is_over = url, clients, False
        self.told, self.errors = [], []

    async def __aenter__(self):
        self.client = many_of(self.url)
        self.tasks = [asyncio.ensure_future(self._ask(number)) for number in range(self.clients)]
        return self

    async def __aexit__(self, *_):
        self.is_over = True
        await asyncio.wait_for(asyncio.gather(*self.tasks), 60)
        await self.client.close()

    async def _ask(self, number):
        while not self.is_over:
            prompt, is_stream = f"{random.choice('abcdefgh')} once", number % 2 == 0
            asked = dict(model="tiny", prompt=prompt, max_tokens=24, temperature=0, stream=is_stream)
            version, text = "", ""
            try:
                answer = await self.client.completions.with_raw_response.create(**asked)
                version = answer.headers["x-model-version"]
                if is_stream:
                    async for event in answer.parse():
                        text += event.choices[0].text
                else:
                    text = answer.parse().choices[0].text
                self.told.append((version, prompt, text))
            except openai.APIError as error:
                self.errors.append((is_stream, bool(version), error))


def test_workers_that_are_killed_under_load_cost_streams_that_had_begun_and_nothing_else(root, two):
    url, pid = two
    model = LM.load(root / "models" / "tiny@1")
    expected = {f"{each} once": model.complete(f"{each} once", 24, temperature=0).text for each in "abcdefgh"}

    async def test():
        async with Load(url) as load:
            for number in (0, 1):
                await asyncio.sleep(1)
                os.kill(workers_of(pid)[number], signal.SIGKILL)
                await asyncio.to_thread(until, lambda number=number: ready(url) and number in workers_of(pid))
            num = len(load.told)
            await asyncio.sleep(1)
        assert len(load.told) > num > 20
        assert all(is_stream and has_begun for is_stream, has_begun, _ in load.errors), load.errors
        assert all("ended in the midst" in str(error) for _, _, error in load.errors) and len(load.errors) <= 6
        assert {version for version, _, _ in load.told} == {"1"}
        assert [text for _, _, text in load.told] == [expected[prompt] for _, prompt, _ in load.told]

    asyncio.run(test())
    assert sum(counted(url, "gyral_worker_deaths_total").values()) == 2


def test_a_swap_under_load_fails_nobody_and_no_answer_is_of_two_versions(root, two):
    """Last of those that share the server: it leaves another version behind."""
    url, _ = two
    texts = {}

    async def test():
        async with Load(url) as load, many_of(url) as clients:
            await asyncio.sleep(0.5)
            long = await clients.completions.create(model="tiny", prompt="Long", max_tokens=900, temperature=0, stream=True)
            begun = (await anext(long)).choices[0].text
            await asyncio.to_thread(publish_lm, root, seed=2, length=LENGTH)
            await asyncio.to_thread(until, lambda: counted(url, "gyral_model_version") == {"tiny": 2})
            named = await clients.completions.with_raw_response.create(model="tiny", prompt="x", max_tokens=1)
            assert named.headers["x-model-version"] == "2"
            rest = [event.choices[0].text async for event in long]
            await asyncio.sleep(0.5)
        return load, begun + "".join(rest)

    load, long = asyncio.run(test())
    assert not load.errors and {version for version, _, _ in load.told} == {"1", "2"}
    for number in ("1", "2"):
        model = LM.load(root / "models" / f"tiny@{number}")
        texts |= {(number, f"{each} once"): model.complete(f"{each} once", 24, temperature=0).text for each in "abcdefgh"}
    assert [text for _, _, text in load.told] == [texts[version, prompt] for version, prompt, _ in load.told]
    assert long == LM.load(root / "models" / "tiny@1").complete("Long", 900, temperature=0).text


async def cached(root, workers, asked, at_once=8, key=beginning):
    """Tokens of prompts that were read before, when as many copies are asked these bodies."""
    found = 0
    async with copied(root, "tiny@1", Serve(workers=workers), Decode(), print) as copies:
        waiting = iter(asked)

        async def ask():
            nonlocal found
            for body in waiting:
                feed = copies.ask(Wanted(copies.default, "default", CHAT, body, 60.0, False, False, key(decode(CHAT, body))))
                (part,) = await feed.next()
                assert part.status == 200, part.body
                found += msgspec.json.decode(part.body)["usage"]["prompt_tokens_details"]["cached_tokens"]

        await asyncio.gather(*(ask() for _ in range(at_once)))
        assert sum(each["cached_tokens"] for each in copies.state()["workers"]) == found
        assert copies.state()["in_flight"] == 0
    return found


def test_several_copies_find_nine_tenths_of_what_one_copy_finds(root):
    rng = random.Random(0)
    systems = ["".join(rng.choices("abcdefghij ", k=400)) for _ in range(16)]
    turns = [(system, "".join(rng.choices("klmnop ", k=60))) for system in systems for _ in range(16)]
    rng.shuffle(turns)
    bodies = [
        json.dumps(
            {
                "model": "tiny", "max_tokens": 2,
                "messages": [{"role": "system", "content": system}, {"role": "user", "content": said}],
            }
        ).encode()
        for system, said in turns
    ]  # fmt: skip
    one, two, four = (asyncio.run(cached(root, workers, bodies)) for workers in (1, 2, 4))
    assert one > 0.85 * 400 * len(bodies)
    assert two >= 0.9 * one and four >= 0.9 * one, (one, two, four)


def test_a_file_is_served_by_workers_like_a_model(tmp_path):
    written_gguf.written(tmp_path / "m.gguf")
    model = packaged(str(tmp_path / "m.gguf"), print).default
    with started(tmp_path, tmp_path / "m.gguf", "serve.workers=2") as (url, _), client_of(url) as client:
        assert "m@1" in {each.id for each in client.models.list()}
        told = client.completions.with_raw_response.create(model="m", prompt="Once", max_tokens=6, temperature=0)
        assert told.headers["x-model-version"] == "1"
        assert told.parse().choices[0].text == model.complete("Once", 6, temperature=0).text
        status, _, described = raw(url, "GET", "/v1/model")
        assert status == 200 and described["card"]["source"] == str(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "model, config",
    [
        ("tiny", Serve(workers=2, max_workers=4)),
        ("tiny", Serve(workers=2, variants=["tiny-int8"])),
        ("tiny", Serve(workers=2, canary="tiny@1")),
        ("openai:http://127.0.0.1:1", Serve(workers=2)),
    ],
)
def test_what_copies_do_not_do_is_refused(root, model, config):
    async def test():
        async with copied(root, model, config, Decode(), print):
            pass

    with pytest.raises(ConfigError):
        asyncio.run(test())
