"""How many characters make a shingle where no spaces part the words: as many as make translations as alike as their originals.

Pages of LibreOffice's help exist in English and in scripts without spaces, under one name. For pairs of pages with a Jaccard
of five-word shingles of .3 or more in English: the Jaccard of the same two pages in the other language, by shingles of n
characters of any script, and by those that are shipped; its mean difference (positive: too lenient) and mean absolute
difference. Pages of which either is untranslated are left out.

Command: .venv/bin/python benchmarks/curate/near_chars.py (a minute)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import pyarrow as pa
import xxhash
from curate.near_documents import _texts
from measure import write

from gyral.curate.near import shingle_kernel
from gyral.curate.near.minhash import MinHash
from gyral.curate.near.pairs import Nodes, Settings, find_pairs
from gyral.curate.near.shingle import HAN, SPACELESS, Shingles, fold_table, powers, shingle_sets
from gyral.curate.stage import utf8

LANGUAGES = ("ja", "zh-cn", "zh-tw", "km")
LENGTHS = (4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20)


def pages(language: str) -> dict[str, str]:
    """Name without the language → text."""
    found = _texts(f"libreoffice-help-{language}")
    return {name.split("/help/", 1)[-1].split("/", 1)[-1]: text for name, text in found if len(text) > 200}


def main() -> None:
    english = pages("en-us")
    names = list(english)
    texts = pa.array(list(english.values()))
    stage = MinHash(bands=60, rows=3)
    keys, counts = stage.sign(texts)
    names_of = [xxhash.xxh3_128_intdigest(name.encode()) for name in names]
    digests = np.array([[value >> 64, value % 2**64] for value in names_of], np.uint64)
    nodes = Nodes(digests, keys, counts, np.array([len(text) for text in english.values()], np.int64))
    with tempfile.TemporaryDirectory() as folder:
        how = Settings(floor=0.3, bucket=10_000)
        pairs = find_pairs([nodes], lambda rows: iter([texts.take(pa.array(rows))]), how, Path(folder))
    result = {}
    for language in LANGUAGES:
        other = {name: text for name, text in pages(language).items() if name in english and spaceless(text) > 0.3}
        numbers = {name: number for number, name in enumerate(other)}
        both = [
            (numbers[names[a]], numbers[names[b]], float(j))
            for a, b, j in zip(pairs.a, pairs.b, pairs.jaccard, strict=True)
            if names[a] in numbers and names[b] in numbers and j < 1
        ]
        rows = {}
        for length in (*LENGTHS, "as shipped"):
            sets = sets_of(list(other.values()), length)
            differences = np.array([jaccard(sets[a], sets[b]) - j for a, b, j in both])
            rows[length] = [round(float(differences.mean()), 4), round(float(np.abs(differences).mean()), 4)]
        result[language] = {"pages": len(other), "pairs": len(both), "mean_and_mean_absolute_difference": rows}
        print(language, result[language], file=sys.stderr)
    write("curate_near_chars", result)


def sets_of(texts: list[str], length: int | str) -> list[np.ndarray]:
    """Sets of shingles of `length` characters of any script, or of those that are shipped."""
    array = pa.array(texts)
    if length == "as shipped":
        hashes, ends = shingle_sets(array, Shingles())
        return np.split(hashes, ends[:-1])
    table = np.where(fold_table() >> 24 == 4, fold_table() - np.uint32(2 << 24), fold_table())
    data, offsets = utf8(array)
    hashes, ends = np.empty(len(data) // 2 + 2 * len(texts), np.uint64), np.zeros(len(texts), np.int64)
    shingle_kernel.sets(data, offsets, table, powers(), np.uint64(5), np.uint64(length), hashes, ends)
    return np.split(hashes[: ends[-1]], ends[:-1])


def spaceless(text: str) -> float:
    """Share of characters of scripts without spaces."""
    return sum(any(first <= ord(char) <= last for first, last in HAN + SPACELESS) for char in text[:2_000]) / len(text[:2_000])


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


if __name__ == "__main__":
    main()
