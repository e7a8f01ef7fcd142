"""A tokenizer as llama.cpp has it: pieces, their kinds, merges, and the *name* of how text is cut before merges.

The cut is a regular expression that llama.cpp knows by name, and there is no way to bring another. So each name is tried on
text of the model's dataset and on lines of many scripts, and the one that makes most of the same tokens is taken (the one of
the very same steps, where there is one); where it makes less than the share `ENOUGH`, the model is refused. A tokenizer that
`gyral curate` trained is cut like `llama-bpe`, but for combining marks, a slash after punctuation, and a quotation mark before
a word that begins like `'s`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from gyral.errors import InputError
from gyral.model import gguf
from gyral.model.tokenizer import Tokenizer

CUTS = ("gpt-2", "smollm", "llama-bpe")
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
ENOUGH = 0.95
LINES = (
    "It wasn't 1,024 items, was it? She said: 'so be it' — twice… (see https://example.org/a/b?c=1#d).\n\n",
    "\tdef f(x):  return x ** 2  # größer, élève, naïve coöperation\r\n",
    "Привет, как дела? 你好,世界! こんにちは。 مرحبا بالعالم  नमस्ते दुनिया 안녕하세요 3.14159 €20 🙂\n",
)
"""Asked about as well, whatever the dataset has."""


class Tokens(NamedTuple):
    """Keys of the file, and how many of the source's tokens another reader makes, 0 to 1."""

    keys: dict[str, Any]
    cut: str
    same: float


def keys_of(body: bytes, vocab: int, end: int, texts: Sequence[str]) -> Tokens:
    """The keys under `tokenizer.ggml` of a tokenizer over bytes.

    Parameters
    ----------
    body : of a `tokenizer.json`.
    vocab : rows of the embedding; those beyond the tokenizer's tokens are unused ones.
    end : the token that ends a document, which also stands before one.

    Raises
    ------
    InputError : it is of a kind that llama.cpp does not know, or would cut text too differently.
    """
    told: dict[str, Any] = msgspec.json.decode(body)
    model = told["model"]
    bytes_before = "ByteLevel" in str(told.get("pre_tokenizer"))
    if model.get("type") != "BPE" or not bytes_before or told.get("normalizer") or model.get("byte_fallback"):
        why = "only merges of bytes (BPE as GPT-2 has it), without normalization, can be written"
        hint = "`--to hf` keeps the tokenizer as it is; llama.cpp's `convert_hf_to_gguf.py` knows more of them"
        raise InputError("the tokenizer has no place in a GGUF file", why=why, hint=hint)
    pieces = {int(number): piece for piece, number in model["vocab"].items()}
    kinds = dict.fromkeys(pieces, NORMAL)
    for added in told.get("added_tokens") or ():
        pieces[int(added["id"])] = added["content"]
        kinds[int(added["id"])] = CONTROL if added.get("special") else USER_DEFINED
    if max(pieces) >= vocab:
        why = f"it has token {max(pieces):,}, and the model knows {vocab:,}"
        raise InputError(
            "the tokenizer is not that of the model", why=why, hint="the folder needs the tokenizer it was trained with"
        )
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", ())]
    keys = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [pieces.get(number, f"[PAD{number}]") for number in range(vocab)],
        "tokenizer.ggml.token_type": [kinds.get(number, UNUSED) for number in range(vocab)],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.bos_token_id": end,
    }
    source = Tokenizer(body)
    asked = [*texts, *LINES]
    readers = {cut: _read({**keys, "tokenizer.ggml.pre": cut}) for cut in CUTS}
    shares = {cut: same_tokens(source, reader, asked) for cut, reader in readers.items()}
    own = _steps(body)
    cut = max(CUTS, key=lambda each: (_steps(readers[each].body) == own, shares[each]))
    if shares[cut] < ENOUGH:
        why = f"cut like `{cut}`, the nearest that llama.cpp knows, {100 * shares[cut]:.1f} % of tokens are the same"
        hint = "`--to hf` keeps the tokenizer as it is"
        raise InputError("the tokenizer has no place in a GGUF file", why=why, hint=hint)
    return Tokens({**keys, "tokenizer.ggml.pre": cut}, cut, shares[cut])


def same_tokens(one: Tokenizer, other: Tokenizer, texts: Sequence[str]) -> float:
    """Share of the tokens of `one` that `other` has at the same bytes of the texts."""
    same = num = 0
    for text in texts:
        spans = [_spans(each, text) for each in (one, other)]
        same += len(spans[0] & spans[1])
        num += len(spans[0])
    return same / max(num, 1)


def _spans(tokenizer: Tokenizer, text: str) -> set[tuple[int, int]]:
    tokens = tokenizer.encode([text]).tokens.tolist()
    ends = list(accumulate(len(tokenizer.bytes_of(token)) for token in tokens))
    return set(zip([0, *ends], ends, strict=False))


def _steps(body: bytes) -> list[dict[str, Any]]:
    """How a `tokenizer.json` cuts text, step by step, without what does not change tokens."""
    told = msgspec.json.decode(body)["pre_tokenizer"]
    steps = told["pretokenizers"] if told["type"] == "Sequence" else [told]
    return [{name: value for name, value in each.items() if name != "trim_offsets"} for each in steps]


def _read(keys: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a reader makes of these keys."""
    return Tokenizer(gguf.tokenizer_of(keys))
