"""Language models of llama.cpp's files (GGUF): shape, values, tokenizer, chat template.

Blocks of F32, F16, BF16, Q8_0, Q4_0, Q4_1 are read, as float32: 135 million parameters take 1.5 CPU-s and 540 MB.
llama.cpp turns the rows of query and key so that the two halves of a rotated pair lie side by side; they are turned back here.
The file is mapped and nothing in it is run; counts and offsets are checked, so that a damaged one is refused, not believed.

Source: `docs/gguf.md` of ggml (version 3), the block layouts of `ggml-common.h`. The package `gguf` is the oracle of
`tests/model/test_gguf.py`.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gyral.errors import InputError
from gyral.model.chat import Chat
from gyral.model.decoder import Decoder, check
from gyral.model.nets.llama import Shape
from gyral.model.tokenizer import Tokenizer

MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY, _CONTROL = 8, 9, 3
_MAX_ITEMS = 1 << 24
NAMES = {
    "attn_q": "attention.query", "attn_k": "attention.key", "attn_v": "attention.value", "attn_output": "attention.out",
    "ffn_gate": "feed.gate", "ffn_up": "feed.up", "ffn_down": "feed.down", "attn_norm": "before_attention",
    "ffn_norm": "before_feed",
}  # fmt: skip
WHOLE = {"token_embd.weight": "embed.weight", "output_norm.weight": "norm.weight", "output.weight": "logits.weight"}
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class _Placed(NamedTuple):
    """A tensor of the file: sizes as numpy counts them, kind of its blocks, where it begins."""

    sizes: tuple[int, ...]
    kind: int
    at: int


class File:
    """What a GGUF file says and holds.

    Raises
    ------
    InputError : it is none, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._at = 0
            self.meta, self._tensors = self._head()
        except (OSError, ValueError, struct.error, LookupError, TypeError, ArithmeticError, MemoryError) as error:
            why = f"it is no GGUF file: {error}"
            raise InputError(
                "the model cannot be read", why=why, where=str(path), hint="fetch it again, or name another"
            ) from None

    @property
    def names(self) -> list[str]:
        """Of its tensors."""
        return list(self._tensors)

    def tensor(self, name: str) -> np.ndarray:
        """The values of a tensor, float32.

        Raises
        ------
        InputError : its blocks are of a kind that is not known, or it is cut off.
        """
        sizes, kind, at = self._tensors[name]
        if kind not in _BLOCKS:
            hint = "F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are known"
            raise InputError(f"`{name}` cannot be read", where=str(self.path), why=f"its blocks are of kind {kind}", hint=hint)
        values, size_bytes, read = _BLOCKS[kind]
        count = math.prod(sizes)
        length = count // values * size_bytes
        if count % values or at + length > len(self._bytes):
            raise InputError(f"`{name}` cannot be read", where=str(self.path), why="the file is cut off", hint="fetch it again")
        found = read(np.frombuffer(self._bytes, np.uint8, length, at).reshape(-1, size_bytes))
        return np.ascontiguousarray(found, np.float32).reshape(sizes)

    def _head(self) -> tuple[dict[str, Any], dict[str, _Placed]]:
        if self._bytes[:4] != MAGIC:
            raise ValueError("it begins with other bytes")
        self._at = 4
        if (version := self._one("I")) not in (2, 3):
            raise ValueError(f"it is of version {version}, and 2 and 3 are known")
        tensors, pairs = self._count(), self._count()
        meta = {self._string(): self._value(self._one("I")) for _ in range(pairs)}
        placed = []
        for _ in range(tensors):
            name = self._string()
            sizes = tuple(self._one("Q") for _ in range(min(self._one("I"), 8)))[::-1]
            placed.append((name, sizes, self._one("I"), self._one("Q")))
        step = max(int(meta.get("general.alignment", 32)), 1)
        begin = -(-self._at // step) * step
        found = {name: _Placed(sizes, kind, begin + at) for name, sizes, kind, at in placed}
        whole = sum(math.prod(each.sizes) // _BLOCKS[each.kind][0] * _BLOCKS[each.kind][1] for each in self._known(found))
        if len(found) < len(placed) or whole > len(self._bytes):
            raise ValueError("two of its tensors have one name, or lie in one place")
        return meta, found

    @staticmethod
    def _known(found: dict[str, _Placed]) -> list[_Placed]:
        return [each for each in found.values() if each.kind in _BLOCKS]

    def _one(self, form: str) -> Any:
        (found,) = struct.unpack_from("<" + form, self._bytes, self._at)
        self._at += struct.calcsize("<" + form)
        return found

    def _count(self) -> int:
        count = int(self._one("Q"))
        if count > _MAX_ITEMS:
            raise ValueError(f"it counts {count:,} items")
        return count

    def _string(self) -> str:
        length = int(self._one("Q"))
        if length > len(self._bytes) - self._at:
            raise ValueError("a text is cut off")
        self._at += length
        return self._bytes[self._at - length : self._at].decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._one(_SCALARS[kind])
        inner, count = self._one("I"), self._count()
        if inner == _ARRAY:
            raise ValueError("an array of arrays")
        return [self._value(inner) for _ in range(count)]


def read(path: Path) -> tuple[Decoder, Chat]:
    """A language model with its tokens and its way to be talked to.

    Raises
    ------
    InputError : it is damaged, or of an architecture, a tokenizer or a kind of blocks that is not known.
    """
    file = File(path)
    meta = file.meta
    if meta.get("general.architecture") != "llama" or meta.get("llama.rope.scaling.type", "none") != "none":
        why = f"its architecture is `{meta.get('general.architecture')}`, and `llama` without scaled positions is known"
        raise InputError("the model cannot be used", where=str(path), why=why)
    try:
        shape, length = _shape_of(file)
        check("llama", shape, length, [math.prod(each.sizes) for each in file._tensors.values()], str(path))
        state = {_renamed(name): torch.from_numpy(_turned(name, file.tensor(name), shape)) for name in file.names}
        body = tokenizer_of(meta)
        pieces, end = meta["tokenizer.ggml.tokens"], int(meta["tokenizer.ggml.eos_token_id"])
        start = int(meta.get("tokenizer.ggml.bos_token_id", end))
        specials = (("bos_token", str(pieces[start])), ("eos_token", str(pieces[end])))
        chat = Chat(str(meta.get("tokenizer.chat_template", "")), (end,), specials)
        between = pieces.index("<|endoftext|>") if "<|endoftext|>" in pieces else end
    except (KeyError, IndexError) as error:
        raise InputError("the model cannot be used", where=str(path), why=f"{error} is missing") from None
    except (ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:  # sizes that contradict each other
        raise InputError("the model cannot be used", where=str(path), why=str(error)[:300]) from None
    if shape.tied:
        state["logits.weight"] = state["embed.weight"]
    tokenizer = Tokenizer(body, str(path))
    return Decoder(shape, length, "llama", state, tokenizer.fingerprint, body, between), chat


def _shape_of(file: File) -> tuple[Shape, int]:
    meta = {key.removeprefix("llama."): value for key, value in file.meta.items()}
    heads, embed = int(meta["attention.head_count"]), file._tensors["token_embd.weight"].sizes
    shape = Shape(
        embed[0], embed[1], int(meta["block_count"]), heads, int(meta.get("attention.head_count_kv", heads)),
        int(meta["feed_forward_length"]), "output.weight" not in file.names, float(meta.get("rope.freq_base", 10_000.0)),
        round(float(meta["attention.layer_norm_rms_epsilon"]), 12),
    )  # fmt: skip
    return shape, int(meta["context_length"])


def _renamed(name: str) -> str:
    if name in WHOLE:
        return WHOLE[name]
    _, block, part, kind = (*name.split("."), "", "", "")[:4]
    return f"blocks.{block}.{NAMES[part]}.{kind}"


def _turned(name: str, array: np.ndarray, shape: Shape) -> np.ndarray:
    """Rows of query and key as transformers has them: first the first halves of all pairs of a head."""
    part = name.split(".")[2] if name.startswith("blk.") else ""
    if part not in ("attn_q", "attn_k"):
        return array
    heads = shape.heads if part == "attn_q" else shape.kv_heads
    return np.ascontiguousarray(array.reshape(heads, -1, 2, array.shape[1]).swapaxes(1, 2)).reshape(array.shape)


def tokenizer_of(meta: dict[str, Any]) -> bytes:
    """The `tokenizer.json` that the file's vocabulary and merges were made from, as far as it changes tokens."""
    kind, cut = meta["tokenizer.ggml.model"], meta.get("tokenizer.ggml.pre", "default")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": cut != "llama-bpe"}
    before: list[dict[str, Any]] = {
        "smollm": [{"type": "Digits", "individual_digits": True}],
        "llama-bpe": [{"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False}],
        "gpt-2": [],
        "default": [],
    }.get(cut, [{}])
    if kind != "gpt2" or before == [{}]:
        why = f"its kind is `{kind}`, cut like `{cut}`"
        raise InputError("the model's tokenizer is not known", why=why, hint="a folder of transformers brings its own")
    pieces, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    specials = [
        {"id": at, "content": text} | flags for at, (text, one) in enumerate(zip(pieces, kinds, strict=True)) if one == _CONTROL
    ]
    merges = [merge.split(" ", 1) for merge in meta["tokenizer.ggml.merges"]]
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": cut == "llama-bpe",
        "vocab": {text: at for at, text in enumerate(pieces)}, "merges": merges,
    }  # fmt: skip
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": specials, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*before, level]}, "post_processor": None,
        "decoder": level, "model": model,
    }  # fmt: skip
    return json.dumps(whole, ensure_ascii=False).encode()


def _half(blocks: np.ndarray, begin: int) -> np.ndarray:
    """A float16 of each block, float32 [n, 1]."""
    found: np.ndarray = blocks[:, begin : begin + 2].copy().view(np.float16).astype(np.float32)
    return found


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """Four bits each: first the low ones of all bytes, then the high ones, float32 [n, 32]."""
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)


def _f32(blocks: np.ndarray) -> np.ndarray:
    return blocks.copy().view(np.float32)


def _f16(blocks: np.ndarray) -> np.ndarray:
    return blocks.copy().view(np.float16)


def _bf16(blocks: np.ndarray) -> np.ndarray:
    return (blocks.copy().view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    found: np.ndarray = (_nibbles(blocks[:, 2:]) - 8) * _half(blocks, 0)
    return found


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    found: np.ndarray = _nibbles(blocks[:, 4:]) * _half(blocks, 0) + _half(blocks, 2)
    return found


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    found: np.ndarray = blocks[:, 2:].copy().view(np.int8).astype(np.float32) * _half(blocks, 0)
    return found


_BLOCKS: dict[int, tuple[int, int, Callable[[np.ndarray], np.ndarray]]] = {
    0: (1, 4, _f32), 1: (1, 2, _f16), 2: (32, 18, _q4_0), 3: (32, 20, _q4_1), 8: (32, 34, _q8_0), 30: (1, 2, _bf16),
}  # fmt: skip
"""Kind → values of a block, its bytes, how it is read."""
