"""What is asked for: people by how often they act, prompts by length, or the bodies of a file.

Of a project whose lake has events the subjects are its own, most active first, so that caches and cold starts are as they are;
else they are numbers. Prompts are words of Zipf's frequencies: no text, but tokens, lengths and repetitions as text has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.compute as pc

from gyral.bench.traffic import drawn, zipf
from gyral.config.bench import Bench
from gyral.errors import InputError, UsageError
from gyral.lake.table import Lake

PATHS = {
    "recommend": "/v1/recommend",
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "search": "/v1/search",
    "embed": "/v1/embed",
    "bodies": "",
}
LANGUAGE = ("chat", "completions")
TEXT = (
    "the of and to in a is that for it was on are as with his they at be this from have or by one had not but what "
    "all were when we there can an your which their said if do will each about how up out them then she many some "
    "so these would other into has more her two like him see time could no make than first been its who now people "
    "my made over did down only way find use may water long little very after words called just where most know get "
    "through back much before go good new write our used me man too any day same right look think also around "
    "another came come work three word must because does part even place well such here take why things help put "
    "years different away again off went old number great tell men say small every found still between name should "
    "home big give air line set own under read last never us left end along while might next sound below saw "
    "something thought both few those always looked show large often together asked house world going want school "
    "important until form food keep children feet land side without boy once animals life enough took"
)
WORDS = TEXT.split()
LENGTH_SIGMA = 0.6
"""Of the logarithm of a prompt's length: one in forty is 3.2 times as long as the median."""
MAX_WORDS = 8
"""Of a query for pictures."""
MAX_FILE_BYTES = 1 << 30

encode = msgspec.json.Encoder().encode


def subjects(lake: Lake, count: int) -> tuple[list[str], str]:
    """The most active subjects of a lake, or numbers where it has none; and a word on which."""
    if lake.exists("events"):
        column = lake.snapshot("events").read(["subject"])["subject"].drop_null()
        counted = pc.value_counts(column)
        order = np.lexsort((np.arange(len(counted)), -counted.field("counts").to_numpy()))[:count]
        found: list[str] = counted.field("values").take(order).to_pylist()
        if found:
            return found, f"{len(found):,} subjects of the lake"
    return [str(number) for number in range(1, count + 1)], f"{count:,} subjects that are numbers"


def prompts(count: int, median_words: int, rng: np.random.Generator, most_words: int = 1 << 20) -> list[str]:
    """Texts of log-normal length; the words' frequencies are Zipf's."""
    lengths = np.clip(np.exp(rng.normal(np.log(median_words), LENGTH_SIGMA, count)).round(), 1, most_words).astype(int)
    words = np.array(WORDS, object)[drawn(zipf(len(WORDS), 1.0), int(lengths.sum()), rng)]
    ends = np.cumsum(lengths)
    return [" ".join(words[end - length : end]) for length, end in zip(lengths.tolist(), ends.tolist(), strict=True)]


def lines(path: Path) -> list[bytes]:
    """Bodies of a file of JSON lines, each as it stands.

    Raises
    ------
    InputError : it cannot be read, is too large, has no line, or one that is no JSON.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"`{path}` has more than {MAX_FILE_BYTES >> 30} GiB", hint="a part of it says as much")
        found = [line for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise InputError(
            f"`{path}` cannot be read", why=error.strerror or str(error), hint="name a file of JSON lines that you may read"
        ) from None
    if not found:
        raise InputError(f"`{path}` has no bodies", hint="write one JSON value a line")
    for number, line in enumerate(found, start=1):
        try:
            msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(
                "a body is no JSON", why=str(error), where=f"{path}, line {number}", hint="one JSON value a line"
            ) from None
    return found


def pool(config: Bench, lake: Lake, model: str, rng: np.random.Generator) -> tuple[list[bytes], str]:
    """Bodies that a route is asked with, most frequent first, and a word on what they are.

    Parameters
    ----------
    model : that language routes name.

    Raises
    ------
    UsageError : no file of bodies is named.
    """
    if config.route == "bodies":
        if not config.bodies:
            raise UsageError("no bodies are named", hint="`--bodies FILE`, one JSON value a line")
        found = lines(Path(config.bodies))
        return found, f"{len(found):,} bodies of {config.bodies}"
    if config.route == "recommend":
        people, told = subjects(lake, config.users)
        more: dict[str, Any] = {"model": config.model} if config.model else {}
        return [encode({"subject": each, "k": config.k, **more}) for each in people], told
    if config.route in LANGUAGE:
        texts = prompts(config.users, config.prompt_words, rng)
        asked: Sequence[dict[str, Any]] = (
            [{"messages": [{"role": "user", "content": text}]} for text in texts]
            if config.route == "chat"
            else [{"prompt": text} for text in texts]
        )
        stream = {"stream": True, "stream_options": {"include_usage": True}} if config.stream else {}
        settings = {"model": model, "max_tokens": config.max_tokens, **stream}
        return [
            encode({**settings, **each}) for each in asked
        ], f"{len(texts):,} prompts, {config.prompt_words} words in median"
    texts = prompts(config.users, MAX_WORDS // 2, rng, MAX_WORDS)
    if config.route == "embed":
        return [encode({"texts": [text]}) for text in texts], f"{len(texts):,} texts"
    return [encode({"text": text, "k": config.k}) for text in texts], f"{len(texts):,} queries"
