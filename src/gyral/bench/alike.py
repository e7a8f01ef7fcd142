"""`gyral bench alike`: from which cosine on a server may tell the answer to one question as that to another.

    {"one": "What does “at-sign” mean?", "other": "What does “at sign” mean?", "is_same": true}

The vectors are those that the server itself compares (`serve.alike`), so the threshold holds for the model that answers now and
for questions like those of the file. The share of errors is that among pairs as the file has them: pairs that are not the same
have to be as near to each other as a question is to the nearest one that was asked before, and as frequent.
"""

from __future__ import annotations

import base64
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gyral.bench import cpu
from gyral.bench.serve import key_of
from gyral.config.bench import Bench
from gyral.errors import InputError, NotFound, ServeError
from gyral.serve.alike import calibrated, unit

AT_ONCE = 64
TIMEOUT_S = 600.0


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two questions, and whether one answer is right for both."""

    one: str
    other: str
    is_same: bool


def alike(root: Path, bench: Bench, file: Path, max_error: float) -> dict[str, Any]:
    """The least cosine that keeps wrong answers below `max_error`, and how many of the same questions are above it.

    Raises
    ------
    NotFound : no server is named and none serves the project.  ServeError : it makes no vectors.
    InputError : the file holds no pairs, or the pairs show no such threshold.
    """
    pairs = _pairs(file)
    here = cpu.server_of(root)
    url = bench.url or (here.summary["url"] if here is not None else "")
    if not url:
        raise NotFound("no server is named, and none serves this project now", hint="`gyral serve MODEL`, or `--url URL`")
    headers = {"authorization": f"Bearer {key_of(bench.key_env)}"} if bench.key_env else {}
    model = bench.model or _asked(url, "/v1/models", None, headers)["data"][0]["id"]
    texts = list(dict.fromkeys(text for each in pairs for text in (each.one, each.other)))
    place = {text: at for at, text in enumerate(texts)}
    parts: list[np.ndarray] = []
    for at in range(0, len(texts), AT_ONCE):
        body = {"model": model, "input": texts[at : at + AT_ONCE], "encoding_format": "base64"}
        told = _asked(url, "/v1/embeddings", msgspec.json.encode(body), headers)
        parts += [unit(np.frombuffer(base64.b64decode(each["embedding"]), "<f4")) for each in told["data"]]
    cosines = np.array([float(parts[place[each.one]] @ parts[place[each.other]]) for each in pairs])
    is_same = np.array([each.is_same for each in pairs])
    threshold = calibrated(cosines, is_same, max_error)
    is_above = cosines >= threshold
    return {
        "url": url,
        "model": model,
        "threshold": threshold,
        "pairs": len(pairs),
        "same_above": float(is_above[is_same].mean()),
        "wrong_above": int((is_above & ~is_same).sum()),
    }


def _pairs(path: Path) -> list[Pair]:
    try:
        return msgspec.json.Decoder(Pair).decode_lines(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = '{"one": "…", "other": "…", "is_same": true} on each line'
        raise InputError("the file holds no pairs", where=str(path), why=str(error), hint=hint) from None


def _asked(url: str, path: str, body: bytes | None, headers: dict[str, str]) -> dict[str, Any]:
    address = f"{url.rstrip('/')}{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=TIMEOUT_S) as answer:
            told: dict[str, Any] = msgspec.json.decode(answer.read())
            return told
    except urllib.error.HTTPError as error:
        with error:
            why = error.read(500).decode("utf-8", "replace")
        raise ServeError("the server makes no vectors", where=address, why=why, hint="serve a language model") from None
    except (OSError, ValueError) as error:
        raise ServeError(
            "nobody answers", where=address, why=str(error), hint="`gyral serve MODEL`, then `--url URL`"
        ) from None
