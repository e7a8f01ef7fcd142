"""Workers of trained models: what they answer is what the model answers here."""

import asyncio
import json

import pytest

from gyral import plugins
from gyral.errors import ServeError
from gyral.model import card as cards
from gyral.serve.engine import Ask
from gyral.serve.job import Job

from .test_pool import with_pool


def test_a_recommender_answers_in_a_worker_as_it_does_here(shop, publish):
    model = plugins.find("family", "recommender").load(cards.find(shop.root, "shop"))
    subjects = model.codes.inputs.subjects[:50]

    async def test(pool):
        asks = [Ask(n, "/v1/recommend", json.dumps({"subject": each, "k": 5}).encode()) for n, each in enumerate(subjects)]
        for subject, part in zip(subjects, await asyncio.gather(*map(pool.answer, asks)), strict=True):
            told = json.loads(part.body)
            expected = [item.object for item in model.recommend(subject, 5, {}).items]
            assert part.status == 200 and [item["object"] for item in told["items"]] == expected
            assert part.props["items"] == expected and part.props["kind"] == "impression"
            assert told["model"] == part.props["version"] == "shop@1"
        bad = await pool.answer(Ask(100, "/v1/recommend", b'{"subject": 1}'))
        assert bad.status == 400 and b"not a request" in bad.body
        good = publish(shop.root, "shop")
        await pool.swap(good)
        assert json.loads((await pool.answer(asks[0])).body)["model"] == good
        with pytest.raises(ServeError, match="cannot be read"):
            await pool.swap(publish(shop.root, "shop", damage="weights.safetensors"))
        assert json.loads((await pool.answer(asks[1])).body)["model"] == good

    with_pool(test, of=Job(source=str(shop.root), version="shop@1"))


def test_a_model_that_is_not_there_is_said(shop):
    with pytest.raises(ServeError, match="no model `none@1`"):
        with_pool(None, of=Job(source=str(shop.root), version="none@1"))
