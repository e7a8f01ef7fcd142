"""Language models for llama.cpp: `gguf-f16`, `gguf-q8_0`, `gguf-q4_1`, `gguf-q4_0`.

| format | bits a weight | what is stored otherwise |
|---|---|---|
| `gguf-f16` | 16 | norms in float32 |
| `gguf-q8_0` | 8.5 | rows that are not whole blocks of 32, in float16 |
| `gguf-q4_1` | 5 in blocks | the same; 16 levels between the least and the largest of a block, as `--to int4` has them |
| `gguf-q4_0` | 4.5 in blocks | embedding and output matrix in Q8_0, as `--to int4` keeps them in int8 |

The name of a tensor is llama.cpp's; rows of query and key are turned so that the two halves of a rotated pair lie side by side.
What is written is read back by `gyral.model.gguf`, which was written against llama.cpp's files and not against this writer;
tests read it by the package `gguf`, and `benchmarks/compress/export.py` by llama.cpp itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gyral.compress.export import gguf_file
from gyral.compress.export.base import Reading, Source, versions_of
from gyral.compress.export.gguf_file import Kind
from gyral.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from gyral.model.decoder import Decoder
    from gyral.model.programs import Program

FILE = "model.gguf"
_BY_FORMAT = {
    "gguf-f16": (1, "F16", "F16"),
    "gguf-q8_0": (7, "Q8_0", "Q8_0"),
    "gguf-q4_1": (3, "Q4_1", "Q8_0"),
    "gguf-q4_0": (2, "Q4_0", "Q8_0"),
}
"""Number of the format in llama.cpp, how matrices of blocks are stored, how those of the vocabulary are."""


class Gguf(NamedTuple):
    """One of the formats."""

    name: str
    tolerance: float

    def write(self, source: Source, folder: Path) -> list[str]:
        """`model.gguf`."""
        found = source.decoder(self.name)
        if found.layout != "llama":
            why = f"it has the layout of `{found.layout}`, and these files are for the Llama layout"
            hint = "`--to hf`, `--to onnx` and `--to torch` write it; `--set lm.layout=llama` trains the other"
            raise UsageError(f"`{source.card.model}` cannot be written as {self.name}", why=why, hint=hint)
        keys, notes = self._keys(source, found)
        tensors: dict[str, tuple[np.ndarray, Kind]] = {}
        wider = []
        for name, tensor in found.state.items():
            if name == "logits.weight" and found.shape.tied:
                continue
            array = _turned(name, tensor.float().numpy(), found)
            kind = self._kind(name, array)
            tensors[_named(name)] = array, kind
            wider += [name] * (array.ndim == 2 and kind is gguf_file.F16 and self.name != "gguf-f16")
        if wider:
            notes.append(f"in float16, because their rows are not whole blocks of 32: {', '.join(wider)}")
        gguf_file.write(folder / FILE, keys, tensors)
        return notes

    def read(self, program: Program, folder: Path) -> Reading:
        """By this project's reader."""
        from gyral import __version__
        from gyral.model import gguf
        from gyral.model.programs import Foretold

        again = program._replace(module=Foretold(gguf.read(folder / FILE)[0].build()))
        return Reading(f"gyral {__version__}", [again.run(sample) for sample in program.samples])

    def versions(self) -> Mapping[str, str]:
        return versions_of("gyral", "torch")

    def _kind(self, name: str, array: np.ndarray) -> Kind:
        if array.ndim == 1:
            return gguf_file.F32
        _, block, vocabulary = _BY_FORMAT[self.name]
        kind: Kind = getattr(gguf_file, block if name.startswith("blocks.") else vocabulary)
        return kind if kind.takes(array) else gguf_file.F16

    def _keys(self, source: Source, found: Decoder) -> tuple[dict[str, gguf_file.Value], list[str]]:
        shape = found.shape
        keys: dict[str, gguf_file.Value] = {
            "general.architecture": "llama",
            "general.name": source.card.model,
            "general.file_type": _BY_FORMAT[self.name][0],
            "general.quantization_version": 2,
            "llama.context_length": found.length,
            "llama.embedding_length": shape.width,
            "llama.block_count": shape.depth,
            "llama.feed_forward_length": shape.hidden,
            "llama.attention.head_count": shape.heads,
            "llama.attention.head_count_kv": shape.kv_heads,
            "llama.attention.layer_norm_rms_epsilon": float(shape.eps),
            "llama.rope.freq_base": float(shape.theta),
            "llama.rope.dimension_count": shape.head_width,
            "llama.vocab_size": shape.vocab,
        }
        tokens, notes = _tokens(source, found)
        return keys | tokens, notes


def _tokens(source: Source, found: Decoder) -> tuple[dict[str, gguf_file.Value], list[str]]:
    """Keys of the tokenizer and of chats, and what differs."""
    import numpy as np

    from gyral.compress.export.gguf_tokens import keys_of
    from gyral.model.chat import chat_of
    from gyral.model.hf import tokenizer_of_bytes
    from gyral.model.programs import held_out_text
    from gyral.model.tokenizer import Tokenizer

    texts: list[str] = []
    stream = held_out_text(source.root, source.folder, found) if found.tokenizer else None
    if stream is not None:
        rows, _ = stream.rows(np.zeros(1, np.int64), len(stream))
        tokenizer = Tokenizer(found.tokenizer)
        texts = [tokenizer.decode(each[:-1]) for each in np.split(rows[0, 1:], stream.ends[:-1])]
    body = found.tokenizer or tokenizer_of_bytes()
    told = keys_of(body, found.shape.vocab, found.end, texts)
    keys: dict[str, gguf_file.Value] = dict(told.keys)
    notes = []
    if told.same < 1:
        notes.append(
            f"text is cut like `{told.cut}`, the nearest that llama.cpp knows: {100 * told.same:.2f} % of tokens are the same"
        )
    chat = chat_of(source.folder)
    keys["tokenizer.ggml.add_bos_token"] = not chat.template  # a template writes its own beginning
    if chat.template:
        keys["tokenizer.chat_template"] = chat.template
        for name, key in (("bos_token", "bos_token_id"), ("eos_token", "eos_token_id")):
            if text := dict(chat.specials).get(name):
                keys[f"tokenizer.ggml.{key}"] = Tokenizer(body).id_of(text)
    return keys, notes


def _named(name: str) -> str:
    """llama.cpp's name of a parameter."""
    from gyral.model import gguf

    whole = {ours: theirs for theirs, ours in gguf.WHOLE.items()}
    if name in whole:
        return whole[name]
    _, block, rest = name.split(".", 2)
    owner, _, kind = rest.rpartition(".")
    theirs = next(theirs for theirs, ours in gguf.NAMES.items() if ours == owner)
    return f"blk.{block}.{theirs}.{kind}"


def _turned(name: str, array: np.ndarray, found: Decoder) -> np.ndarray:
    """Rows of query and key with the halves of each pair side by side."""
    heads = {"query": found.shape.heads, "key": found.shape.kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return array
    return array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)


F16 = Gguf("gguf-f16", 1e-2)
Q8_0 = Gguf("gguf-q8_0", 0.25)
Q4_1 = Gguf("gguf-q4_1", 1.0)
Q4_0 = Gguf("gguf-q4_0", 1.0)
