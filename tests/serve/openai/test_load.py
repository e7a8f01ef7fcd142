"""A load of streams on a real language server: what the generator counts is what the server says it made."""

import asyncio

import numpy as np
import pytest

from gyral import config as configs
from gyral.bench import points
from gyral.bench.bodies import encode
from gyral.bench.drive import Drive, Target
from gyral.bench.record import OK
from gyral.bench.serve import serve
from gyral.bench.table import table_of
from gyral.bench.traffic import Heads, assembled
from gyral.run import Run
from gyral.serve.http1.server import new_loop


@pytest.mark.parametrize(("path", "asked"), [("/v1/chat/completions", {"messages": [{"role": "user", "content": "a b"}]})])
def test_tokens_of_streams_are_counted_and_timed(server, client, path, asked):
    bodies = [encode({"model": "tiny", "max_tokens": 8, "stream": True, "stream_options": {"include_usage": True}, **asked})]
    due_s, zeros = np.arange(6) / 10, np.zeros(6, np.uint32)
    target = Target.of(server)
    heads = Heads(target.authority, {})
    made = assembled(due_s, [path], zeros, bodies, zeros, heads, "", "30s", np.random.default_rng(0), True)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        record = runner.run(Drive(made, target, timeout_s=60).run())
    assert set(record.outcome) == {OK}
    told = client.chat.completions.create(model="tiny", max_tokens=8, **asked).usage.completion_tokens
    assert list(record.tokens) == [told] * 6
    point = points.operating_point(made, record, 0.6, late_ms=1e4, max_late=1)
    assert point.goodput == 1 and 0 < point.first_token.p50_ms <= point.latency.p50_ms
    assert point.tokens_per_s == pytest.approx(6 * told / point.seconds, rel=1e-3)


@pytest.mark.parametrize(("route", "stream"), [("chat", True), ("completions", False)])
def test_prompts_of_a_route_are_answered_by_the_model_that_the_server_lists(server, tmp_path, route, stream):
    flags = {"url": server, "route": route, "stream": stream, "rate": 8.0, "seconds": 1.0, "users": 20, "prompt_words": 3}
    flags |= {"warmup_s": 0.0, "max_tokens": 4, "deadlines": "60s", "late_ms": 1e4}
    config = configs.load(tmp_path, [], {f"bench.{name}": value for name, value in flags.items()})
    with Run.start(tmp_path, "bench", config) as run:
        told = serve(tmp_path, config, run)
    assert told["num_ok"] == told["num_requests"] > 0 and told["goodput"] == 1 and told["errors"] == {}
    assert (told["first_token"] is not None) == stream == (told["tokens_per_s"] is not None)
    table = table_of(told)
    assert ("first token" in table) == stream and "errors        none" in table and "NOT VALID" not in table
