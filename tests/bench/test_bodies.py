"""What is sent is what the servers' own types read; logged answers become the requests that they answered."""

import msgspec
import numpy as np
import pytest

from gyral.bench import bodies, replay
from gyral.bench.traffic import Heads
from gyral.config.bench import Bench
from gyral.errors import InputError, NotFound, UsageError
from gyral.lake.table import Lake
from gyral.model.vision_routes import Embed, Search
from gyral.serve.app import Recommend
from gyral.serve.feedback import Impression, Impressions, Logged
from gyral.serve.openai.wire import ChatComplete, Complete


@pytest.mark.parametrize(
    ("route", "kind"),
    [("recommend", Recommend), ("chat", ChatComplete), ("completions", Complete), ("search", Search), ("embed", Embed)],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bodies_of_a_route_are_what_its_server_reads(tmp_path, route, kind, stream):
    config = Bench(route=route, users=300, stream=stream, max_tokens=7, k=3)
    found, told = bodies.pool(config, Lake(tmp_path), "tiny", np.random.default_rng(0))
    read = [msgspec.json.decode(body, type=kind) for body in found]
    assert len(read) == 300 and "300" in told
    if route in bodies.LANGUAGE:
        assert {(each.model, each.max_tokens, bool(each.stream)) for each in read} == {("tiny", 7, stream)}
    if route == "recommend":
        assert [each.subject for each in read][:3] == ["1", "2", "3"] and read[0].k == 3


def logged(root, *rows):
    keeper = Impressions(Lake(root), print)
    for row in rows:
        keeper.add(row)
    keeper.close()


def test_logged_answers_become_the_requests_they_answered_at_their_times(tmp_path):
    logged(
        tmp_path,
        Impression("a-2", 5_000_000, "ann", "France", "m@1", "default", 4, ["x"], [1.0], 3),
        Impression("a-1", 1_000_000, "bob", None, "m@1", "frozen", 9, ["x"], [1.0]),
        Logged("a-3", 9_000_000, "search", None, "x", None, {"query": "a fox", "k": 2, "language": "en", "slot": "default"}),
        Logged("a-4", 9_500_000, "completion", None, None, None, {"prompt": "one", "tokens": 5, "slot": "lm", "seed": 3}),
        Logged("a-5", 9_600_000, "embedding", None, None, None, {"texts": 1}),
    )
    made = replay.traffic(Bench(speed=2.0), Lake(tmp_path), Heads("x", {}), "/v", np.random.default_rng(0))
    np.testing.assert_allclose(made.due_s, [0, 2, 4, 4.25])
    asked = []
    for number in range(4):
        path = made.heads[made.head[number]].split(b" ")[1].decode()
        asked.append((path, msgspec.json.decode(made.body(number))))
    assert asked == [
        ("/v/v1/recommend", {"subject": "bob", "k": 9, "model": "frozen"}),
        ("/v/v1/recommend", {"subject": "ann", "k": 4, "context": {"country": "France"}}),
        ("/v/v1/search", {"text": "a fox", "k": 2, "language": "en"}),
        ("/v/v1/completions", {"model": "lm", "prompt": "one", "max_tokens": 5, "seed": 3}),
    ]
    assert any("1 of them told of recent objects" in note for note in made.notes)
    first = replay.traffic(Bench(seconds=2.0, model="new"), Lake(tmp_path), Heads("x", {}), "", np.random.default_rng(0))
    assert len(first) == 1 and msgspec.json.decode(first.body(0))["model"] == "new"


def test_traffic_that_is_not_there_or_takes_for_ever_is_refused(tmp_path):
    with pytest.raises(NotFound, match="no traffic was logged"):
        replay.traffic(Bench(), Lake(tmp_path), Heads("x", {}), "", np.random.default_rng(0))
    for at, time_us in enumerate((0, 90 * 86_400_000_000)):
        logged(tmp_path, Impression(f"b-{at}", time_us, "ann", None, "m@1", "default", 4, ["x"], [1.0]))
    with pytest.raises(UsageError, match="would take 90"):
        replay.traffic(Bench(), Lake(tmp_path), Heads("x", {}), "", np.random.default_rng(0))


def test_a_file_of_bodies_is_checked_line_by_line(tmp_path):
    path = tmp_path / "bodies"
    path.write_bytes(b'{"a": 1}\n\n[2]\n')
    assert bodies.lines(path) == [b'{"a": 1}', b"[2]"]
    for content, where in ((b"", "no bodies"), (b'{"a": 1}\n{\n', "line 2"), (b"\xff\n", "line 1")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=where):
            bodies.lines(path)
    with pytest.raises(InputError, match="cannot be read"):
        bodies.lines(tmp_path / "none")
