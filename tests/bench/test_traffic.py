"""Traffic against h11, which reads its bytes, and against the laws that it is drawn from."""

import h11
import numpy as np
import pytest

from gyral.bench.bodies import prompts
from gyral.bench.traffic import Heads, assembled, drawn, mix, seconds_of, zipf
from gyral.errors import UsageError


def test_a_request_is_what_h11_reads_of_it():
    count = 4_000
    rng = np.random.default_rng(0)
    bodies = [b'{"subject": "a"}', b'{"subject": "\xc3\xa4"}']
    path, body = rng.integers(0, 2, count), rng.integers(0, 2, count)
    heads = Heads("here:80", {"authorization": "Bearer k"})
    made = assembled(
        np.arange(count) / 10, ["/a", "/b"], path, bodies, body, heads, "phone:3,server:1", "50ms:.2,none:.8", rng
    )  # fmt: skip
    seen = []
    for number in range(count):
        reader = h11.Connection(h11.SERVER)
        reader.receive_data(made.heads[made.head[number]] + made.tails[made.tail[number]])
        head, data = reader.next_event(), reader.next_event()
        headers = {name.decode(): value.decode() for name, value in head.headers}
        assert head.method == b"POST" and head.target.decode() == ["/a", "/b"][path[number]]
        assert headers["host"] == "here:80" and headers["authorization"] == "Bearer k"
        assert bytes(data.data) == bodies[body[number]] == made.body(number)
        assert isinstance(reader.next_event(), h11.EndOfMessage)
        limit = headers.get("x-deadline-ms")
        assert made.deadline_s[number] == (0.05 if limit == "50" else np.inf)
        seen.append((headers["x-gyral-tier"], limit))
    assert np.mean([tier == "phone" for tier, _ in seen]) == pytest.approx(0.75, abs=0.03)
    assert np.mean([limit == "50" for _, limit in seen]) == pytest.approx(0.2, abs=0.03)


def test_the_first_is_asked_for_as_often_as_zipf_says():
    places = drawn(zipf(1_000, 1.0), 200_000, np.random.default_rng(1))
    harmonic = sum(1 / rank for rank in range(1, 1_001))
    counts = np.bincount(places, minlength=1_000)
    for rank in (1, 2, 10):
        assert counts[rank - 1] == pytest.approx(200_000 / (rank * harmonic), rel=0.05)
    assert np.ptp(np.bincount(drawn(zipf(10, 0.0), 100_000, np.random.default_rng(2)))) < 600


def test_prompts_have_the_median_length_and_are_their_seeds():
    texts = prompts(4_001, 32, np.random.default_rng(3))
    assert np.median([len(text.split()) for text in texts]) == pytest.approx(32, abs=2)
    assert texts == prompts(4_001, 32, np.random.default_rng(3)) != prompts(4_001, 32, np.random.default_rng(4))


@pytest.mark.parametrize("text", ["", "a:", "a:0", "a:-1", "a:x", "a:nan", ":1", "a,,b"])
def test_what_is_no_mix_is_refused(text):
    if text == "a:":
        assert mix(text, "--devices").values == ["a"]
        return
    with pytest.raises(UsageError, match="no mix"):
        mix(text, "--devices")


def test_times_of_deadlines():
    assert [seconds_of(text, "") for text in ("50ms", "1.5s", ".2s", "none")] == [0.05, 1.5, 0.2, np.inf]
    for text in ("50", "0ms", "-1s", "1h"):
        with pytest.raises(UsageError, match="is no time"):
            seconds_of(text, "--deadlines")
