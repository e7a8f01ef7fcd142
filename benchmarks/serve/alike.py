"""Answers told to like questions (`serve.alike`): how many, how many of them are another question's, and what a look costs.

Questions: "What does the sign or emoji “…” mean?" with the English names of CLDR 48. First each sign is asked about by its name
in `en`; then again, in two ways: by its other name in English of Canada, Britain, Australia or the world, where that differs (a
real paraphrase: "low line" and "underscore"), and by the same name, typed in haste, without capitals and question mark. A hit
is right if the nearest question was about the same sign. Vectors and answers are of SmolLM2-135M, float32, one thread, as
`POST /v1/embeddings` and the server compare them; there is no peer with an embedder that comes with no further model.

`calibrated` is what `gyral bench alike` answers on these pairs: the threshold for so many wrong answers at most, or that
there is none. Predicted before the first run: of the paraphrases few are told with under 5 % wrong, as a model that writes
tells texts apart by their form; of the hasty ones nearly all; a look costs a fifth of an answer of 32 tokens. The second was
wrong: none of them was told.

    .venv/bin/python benchmarks/serve/alike.py     (two minutes)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "compress"))
import json
import random

import numpy as np
import torch
from measure import write
from smollm2 import smollm2

from gyral.errors import InputError
from gyral.model.lm import LM
from gyral.packages.fetch import cache_folder, fetch
from gyral.packages.unpacking import unpack
from gyral.serve.alike import Alike, calibrated

NAMES, ELSEWHERE = "npm:cldr-annotations-full@48.2.0", ("en-001", "en-CA", "en-GB", "en-AU")
QUESTION, HASTY = "What does the sign or emoji “{}” mean?", "what does the sign or emoji {} mean"
THRESHOLDS, ERRORS, ENTRIES, TOKENS = (0.995, 0.9975, 0.999), (0.01, 0.05, 0.1), 4_096, 32


def signs() -> dict[str, list[str]]:
    """Name of a sign in `en` → its other names, of those that have some."""
    folder, _ = unpack(fetch(NAMES, print), print)

    def names(locale: str) -> dict[str, str]:
        path = next(folder.rglob(f"annotations/{locale}/annotations.json"))
        found = json.loads(path.read_bytes())["annotations"]["annotations"]
        return {sign: each["tts"][0] for sign, each in found.items() if "tts" in each}

    here, others = names("en"), [names(each) for each in ELSEWHERE]
    found = {
        name: sorted({each[sign] for each in others if sign in each and each[sign].lower() != name.lower()})
        for sign, name in here.items()
    }
    return {name: more for name, more in found.items() if more}


def hits(first: dict[str, np.ndarray], again: list[tuple[str, np.ndarray]]) -> dict[str, Any]:
    """Second questions, each with the sign that it is about, to a server that was asked the first ones."""
    told: dict[str, Any] = {"questions": len(again)}
    cosines, is_same = [], []
    for threshold in (1e-6, *THRESHOLDS):
        kept = Alike(len(again[0][1]), threshold, ENTRIES)
        for name, vector in first.items():
            kept.put(vector, name.encode())
        found = [(name, kept.get(vector)) for name, vector in again]
        answered = [(name.encode() == each.answer, each.cosine) for name, each in found if each is not None]
        if threshold == 1e-6:
            is_same, cosines = [right for right, _ in answered], [cosine for _, cosine in answered]
            told["nearest_is_right"] = round(float(np.mean(is_same)), 4)
        else:
            wrong = sum(not right for right, _ in answered)
            told[f"at {threshold}"] = {
                "hits": round(len(answered) / len(again), 4),
                "wrong_of_hits": f"{wrong}/{len(answered)}",
            }
    for error in ERRORS:
        try:
            threshold = calibrated(np.array(cosines), np.array(is_same), error)
            share = float((np.array(cosines) >= threshold).mean())
            told[f"calibrated for {error}"] = {"threshold": round(threshold, 5), "hits": round(share, 4)}
        except InputError as refused:
            told[f"calibrated for {error}"] = f"{refused.what}: {refused.why}"
    return told


def cpu_ms(act: Any, times: int) -> float:
    """CPU milliseconds of a call, the mean of many."""
    began = time.process_time()
    for number in range(times):
        act(number)
    return round(1e3 * (time.process_time() - began) / times, 4)


def main() -> None:
    torch.set_num_threads(1)
    reader = LM.load(smollm2(cache_folder() / "benchmarks" / "smollm2"))

    def vector(text: str) -> np.ndarray:
        with torch.no_grad():
            return reader.vector(reader.tokens(text))

    names = signs()
    first = {name: vector(QUESTION.format(name)) for name in names}
    other = [(name, vector(QUESTION.format(each))) for name, more in names.items() for each in more]
    hasty = [(name, vector(HASTY.format(name.lower()))) for name in names]
    texts = [QUESTION.format(name) for name in random.Random(0).sample(list(names), 20)]
    kept = Alike(reader.shape.width, 0.9, ENTRIES)
    rows = np.random.default_rng(0).normal(size=(ENTRIES, reader.shape.width)).astype(np.float32)
    for row in rows:
        kept.put(row, b"", b"key")
    cost = {
        "vector_ms": cpu_ms(lambda n: vector(texts[n]), 20),
        "search_ms_of_4096": cpu_ms(lambda n: kept.get(rows[n], b"key"), 1_000),
        f"answer_ms_of_{TOKENS}_tokens": cpu_ms(lambda n: reader.complete(texts[n], TOKENS, temperature=0), 4),
    }
    write("serve_alike", {"signs": len(names), "other_name": hits(first, other), "hasty": hits(first, hasty), "cpu": cost})


if __name__ == "__main__":
    main()
