"""Captions in any language as vectors: words as bags of hashed character n-grams, then the same blocks as pictures.

A position is a word, or a piece of at most `PIECE` characters where words are long or not spaced (ideographs one by two). Its
vector is the mean of the rows its n-grams hash to, so `Tischtennisschläger` shares rows with `Tisch`, and 131 languages need no
vocabulary. Against bytes a caption is 3 positions instead of 30, and what is shared between
languages (loans, roots, names) is seen without depth. Hashing is CRC-32 of an n-gram's UTF-8, the same anywhere.

Shapes: B captions, T positions, G n-grams of a position (0: none), D width, E of the common space.

Source: Bojanowski et al. 2017 (n-grams of words as bags); Weinberger et al. 2009 (feature hashing).
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets.vit import blocks_of, initial

LENGTH, GRAMS, PIECE, WIDEST = 10, 24, 10, 4
"""Positions of a caption, n-grams of a position, characters of a piece, characters of an n-gram."""
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]{1,2}|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


@dataclass(frozen=True)
class Shape:
    """Sizes of the tower of captions; `buckets` rows for n-grams, `head` as in `vit.Shape`."""

    buckets: int
    width: int
    depth: int
    heads: int
    hidden: int
    head: int = 0


class Bags(nn.Embedding):
    """Bags of rows [N, G] (0: none) → the sum of each, [N, D]."""

    def forward(self, bags_NG: Tensor) -> Tensor:
        return F.embedding_bag(bags_NG, self.weight, mode="sum", padding_idx=0)


class Captions(nn.Module):
    """Hashed captions → their vectors, the mean over positions that are there."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = Bags(shape.buckets, shape.width)
        self.place = nn.Embedding(LENGTH, shape.width)
        self.blocks = blocks_of(shape.depth, shape.width, shape.heads, shape.hidden, head=shape.head)
        self.norm = nn.LayerNorm(shape.width, eps=1e-6)
        self.apply(initial)

    def forward(self, grams_BTG: Tensor) -> Tensor:
        """Vectors [B, D]."""
        count = (grams_BTG > 0).sum(dim=2, keepdim=True)
        is_there = count > 0
        x_BTD = self.embed(grams_BTG.flatten(0, 1))
        x_BTD = x_BTD.unflatten(0, grams_BTG.shape[:2]) / count.clamp(min=1).sqrt()
        x_BTD = (x_BTD + self.place(torch.arange(grams_BTG.shape[1], device=grams_BTG.device))) * is_there
        seen = is_there.squeeze(-1)
        seen = seen | ~seen.any(dim=1, keepdim=True)  # a caption of nothing sees itself
        for block in self.blocks.values():
            x_BTD = block(x_BTD, seen)
        weights = is_there.to(x_BTD.dtype)
        return (self.norm(x_BTD) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def hashed(texts: Sequence[str], buckets: int) -> np.ndarray:
    """N-grams of captions, int64 [B, T, G] in [1, buckets); 0 where there is none; T is the longest's, at most `LENGTH`."""
    every = [[_hashes(word, buckets) for word in words_of(text)[:LENGTH]] for text in texts]
    length = max((len(words) for words in every), default=0)
    found = np.zeros((len(texts), max(1, length), GRAMS), np.int64)
    for row, words in enumerate(every):
        for place, hashes in enumerate(words):
            found[row, place, : len(hashes)] = hashes
    return found


def grams_of(texts: Sequence[str], buckets: int) -> Tensor:
    """The same as a tensor."""
    return torch.from_numpy(hashed(texts, buckets))


def words_of(text: str) -> list[str]:
    """Words in one case and one form, long ones in pieces."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [word[at : at + PIECE] for word in _WORDS.findall(plain) for at in range(0, len(word), PIECE)]


@lru_cache(maxsize=1 << 17)
def _hashes(word: str, buckets: int) -> list[int]:
    return [1 + zlib.crc32(gram.encode()) % (buckets - 1) for gram in _grams(word)[:GRAMS]]


def _grams(word: str) -> list[str]:
    """The word itself, then its n-grams of 2 to `WIDEST` characters between marks of its ends, longest first."""
    marked = f"<{word}>"
    sizes = range(min(WIDEST, len(marked)), 1, -1)
    return [f"={word}", *(marked[at : at + size] for size in sizes for at in range(len(marked) - size + 1))]
