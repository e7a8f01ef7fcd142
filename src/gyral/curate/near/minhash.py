"""MinHash as a stage: a text becomes the keys of its bands, 112 bytes from which near-duplicates are found.

14 bands of 8 hashes find a pair of Jaccard .8 with probability .924, of .85 with .988, of .5 with .053 (1 − (1 − J⁸)¹⁴).
Removals are decided by the true Jaccard, so a band that matches by chance costs time and never a document. A function is
`(a · x + b) mod 2³²` of a mixed 32-bit x: half the width of a peer's, twice the lanes of a register. Measured on a busy core:
248 MB of raw text a CPU second, 390 on a quieter one; datatrove .5, rensa 10, Daft 56 to 97 (`benchmarks/curate/minhash.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gyral.config.curation import Dedup
from gyral.curate.near.shingle import TOKENIZER, Shingles, fold_table, powers, simplify
from gyral.curate.stage import Stage, add, utf8


@dataclass(frozen=True)
class MinHash(Stage):
    """Adds `bands`, the 64-bit keys of a text's bands in a fixed-size binary, and `num_shingles`, with repeats.

    A text shorter than a shingle is one; an empty or missing text has none, and zeros for keys.
    Source: Broder, On the resemblance and containment of documents, 1997; Leskovec et al., Mining of massive datasets, 3.3–3.4.
    """

    name = "minhash"
    bands: int = 14
    rows: int = 8
    shingle_words: int = 5
    shingle_chars: int = 6
    compatible: str = ""
    seed: int = 1
    tokenizer: int = TOKENIZER

    @classmethod
    def of(cls, dedup: Dedup) -> MinHash:
        """As it is configured."""
        return cls(dedup.bands, dedup.rows, dedup.shingle_words, dedup.shingle_chars, dedup.compatible)

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        keys, counts = self.sign(batch.column("text"))
        width = 8 * self.bands
        bands = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(keys), [None, pa.py_buffer(keys)])
        return add(batch, {"bands": bands, "num_shingles": pa.array(counts)})

    def sign(self, texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
        """Band keys uint64 [n, bands] and numbers of shingles int32 [n]."""
        if self.compatible:
            return self.minima(texts)[:2]
        from gyral.curate.near import minhash_kernel

        keys, counts = np.empty((len(texts), self.bands), np.uint64), np.empty(len(texts), np.int32)
        a, b = functions(self.bands * self.rows, self.seed)
        words, chars = np.uint64(self.shingle_words), np.uint64(self.shingle_chars)
        data, offsets = utf8(texts)
        minhash_kernel.sign(data, offsets, fold_table(), powers(), words, chars, a, b, self.rows, keys, counts)
        return keys, counts

    def minima(self, texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Band keys, numbers of shingles, and datatrove's signature, uint64 [n, bands · rows]."""
        from gyral.curate.near import compatible_kernel

        num = self.bands * self.rows
        keys, counts = np.empty((len(texts), self.bands), np.uint64), np.empty(len(texts), np.int32)
        least = np.empty((len(texts), num), np.uint64)
        random = np.random.RandomState(self.seed)  # datatrove's own numbers
        a = random.randint(1, (1 << 61) - 1, dtype=np.uint64, size=num)
        b = random.randint(0, (1 << 61) - 1, dtype=np.uint64, size=num)
        data, offsets = utf8(simplify(texts))
        compatible_kernel.sign(data, offsets, self.shingle_words, a, b, self.rows, keys, counts, least)
        return keys, counts, least

    @property
    def shingles(self) -> Shingles:
        """What its shingles are: the same for the verification."""
        return Shingles(self.shingle_words, self.shingle_chars, self.compatible)


def keys_of(bands: pa.FixedSizeBinaryArray) -> np.ndarray:
    """The column `bands` as `Nodes` has it, uint64 [n, bands]; nothing is copied."""
    width = bands.type.byte_width // 8
    keys = np.frombuffer(bands.buffers()[1], np.uint64, len(bands) * width, 8 * width * bands.offset)
    return keys.reshape(-1, width)


def functions(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors (odd) and summands of `num` hash functions, uint32 each.

    Drawn by SplitMix64 (Steele, Lea and Flood 2014), so that no library's version changes them.
    """
    drawn = []
    for step in range(1, num + 1):
        value = (seed * 0x632BE59BD9B4E019 + step * 0x9E3779B97F4A7C15) % (1 << 64)
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % (1 << 64)
        value = (value ^ value >> 27) * 0x94D049BB133111EB % (1 << 64)
        drawn.append(value ^ value >> 31)
    values = np.array(drawn, np.uint64)
    return (values >> np.uint64(32)).astype(np.uint32) | np.uint32(1), (values & np.uint64(0xFFFFFFFF)).astype(np.uint32)
