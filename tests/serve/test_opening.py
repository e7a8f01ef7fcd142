"""What the configuration says of workers is what the pool gets."""

import asyncio

import pytest

from gyral.config.rerank import Rerank
from gyral.config.sections import Decode, Serve
from gyral.serve import opening
from gyral.serve.openai import opening as of_language


class Seen(Exception):
    """With the settings that a pool was to have."""


@pytest.mark.parametrize("kind", ["front", "copies"])
def test_the_silence_that_a_worker_is_allowed_is_a_setting(tmp_path, monkeypatch, kind):
    async def newest(stack, following, job, settings, folder, **more):
        raise Seen(settings)

    async def run(config):
        if kind == "front":
            found = opening.opened(tmp_path, "shop", config, Rerank(), None, {}, print)
        else:
            found = of_language.copied(tmp_path, "tiny", config, Decode(), print)
        async with found:
            pass

    for module in (opening, of_language):
        monkeypatch.setattr(module, "newest", newest)
        monkeypatch.setattr(module, "Following", lambda *_: None)  # which model it is does not matter
    for config, allowed_s in ((Serve(workers=2, hang_s=7.0), 7.0), (Serve(workers=2), 30.0)):
        with pytest.raises(Seen) as seen:
            asyncio.run(run(config))
        assert seen.value.args[0].hang_s == allowed_s and seen.value.args[0].workers == 2
