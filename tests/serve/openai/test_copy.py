"""The engine of a worker: texts that grow, beside routes that take as long as they take."""

import json
import time

import pytest

from gyral.errors import InputError
from gyral.serve.engine import Ask
from gyral.serve.openai.copy import Copy, open_copy
from gyral.serve.wire import MODEL

from .conftest import publish_lm


@pytest.fixture
def copy(lm_root):
    engine = open_copy(str(lm_root), "tiny=tiny@1", {"decode": {"running": 4}})
    assert isinstance(engine, Copy)
    yield engine
    engine.close()


def ask(id, path, deadline_s=float("inf"), **body):
    return Ask(id, path, json.dumps(body).encode(), deadline_s)


def finish(engine, num, timeout_s=30):
    """Last parts by id."""
    found, end = {}, time.monotonic() + timeout_s
    while len(found) < num:
        assert time.monotonic() < end, found
        found |= {part.id: part for part in engine.step() if part.is_last}
    return found


def test_both_ways_are_answered_side_by_side(copy, reader):
    copy.submit(ask(1, "/v1/completions", model="tiny", prompt="Once", max_tokens=40, temperature=0))
    copy.submit(ask(2, "/v1/score", texts=["abc"]))
    copy.submit(ask(3, "/v1/complete", prompt="Once", max_tokens=9, temperature=0))
    copy.submit(ask(4, MODEL))
    copy.submit(ask(5, "/v1/embeddings", model="tiny", input="abc"))
    copy.submit(ask(6, "/v1/score", texts=3))
    parts = finish(copy, 6)
    assert {id: part.status for id, part in parts.items()} == {1: 200, 2: 200, 3: 200, 4: 200, 5: 200, 6: 400}
    told = {id: json.loads(part.body) for id, part in parts.items()}
    assert told[1]["choices"][0]["text"] == reader.complete("Once", 40, temperature=0).text
    assert told[2]["bits"] == [pytest.approx(reader.score(["abc"]).bits[0], rel=1e-3)] and parts[2].props["kind"] == "score"
    assert told[3]["text"] == reader.complete("Once", 9, temperature=0).text
    assert told[4]["card"]["family"] == "lm" and told[4]["card"]["model"] == "tiny@1"
    assert copy.step() == [] == copy.step()


def test_who_goes_is_told_nothing_and_who_waited_too_long_is_told_so(copy, monkeypatch):
    begun, submit = [], copy._others.submit
    monkeypatch.setattr(copy._others, "submit", lambda ask: (begun.append(ask.id), submit(ask)))
    copy.submit(ask(1, "/v1/complete", prompt="x", max_tokens=400))
    copy.submit(ask(2, "/v1/score", texts=["abc"], deadline_s=0.001))
    copy.submit(ask(3, "/v1/score", texts=["abc"]))
    copy.submit(ask(4, "/v1/completions", model="tiny", prompt="x", max_tokens=60_000, logit_bias={"256": -100}))
    while not begun:
        time.sleep(0.001)
    for id in (1, 3, 4, 77):
        copy.cancel(id)
    copy.submit(ask(5, "/v1/score", texts=["abc"]))
    parts = finish(copy, 2)
    assert {id: part.status for id, part in parts.items()} == {2: 504, 5: 200}
    assert begun == [1, 2, 5] and not copy._writer._jobs and copy.step() == []


def test_a_set_has_a_copy_of_each_and_all_are_language_models(lm_root, tmp_path, reader, made):
    publish_lm(tmp_path)
    publish_lm(tmp_path, seed=2, name="other")
    engine = open_copy(str(tmp_path), "tiny=tiny@1 slot:second=other@1", {})
    for id, variant in ((1, ""), (2, "slot:second")):
        engine.submit(ask(id, MODEL)._replace(variant=variant))
    parts = finish(engine, 2)
    assert [json.loads(parts[id].body)["card"]["model"] for id in (1, 2)] == ["tiny@1", "other@1"]
    assert engine.version == "tiny=tiny@1 slot:second=other@1"
    engine.close()
    with pytest.raises(InputError, match="`shop@1` is no language model"):
        open_copy(str(made.root), "shop=shop@1", {})
