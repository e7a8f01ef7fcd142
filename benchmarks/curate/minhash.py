"""MinHash signatures from raw text, normalisation and shingling included: megabytes a CPU second against the peers.

112 functions in 14 bands of 8 over shingles of five words, of the same texts (`near_documents.py`), each in a process of its
own, one thread where that can be set, in turn; the CPU time of the signatures alone, after a warm-up, without reading texts.

- datatrove: `MinhashDedupSignature.get_shingles` and `get_signature` with its spaCy tokenizer, on a sample; writing, sorting
  and the later stages are not counted.
- rensa: `RMinHash` a document after `lower()`, punctuation to spaces, `split` and joined five-grams in Python, on a sample.
- Daft: `normalize(remove_punct, lowercase, white_space)` and `minhash(num_hashes=112, ngram_size=5)`; and without normalize.

Caveat: the texts are documentation in 14 languages and more; a third of the bytes is not English.
Command: .venv/bin/python benchmarks/curate/minhash.py (about ten minutes)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from curate.near_documents import documents
from measure import PYTHON, in_turn, peer, timed, write

LOAD = """
import json, sys, time
size = int(sys.argv[2]) or 1 << 60

rows = [json.loads(line)["text"] for line in open(sys.argv[1])]
step = max(1, sum(map(len, rows)) // size)
texts = rows[::step]
num_bytes = sum(len(text.encode()) for text in texts)
def report(call, **more):
    took = []
    for _ in range(2):
        start = time.process_time()
        call()
        took.append(time.process_time() - start)
    print(json.dumps({"mb_per_cpu_s": num_bytes / 1e6 / min(took), "mb": num_bytes / 1e6, **more}))
"""
GYRAL = (
    LOAD
    + """
import pyarrow as pa
from gyral.curate.near.minhash import MinHash
stage = MinHash(compatible=sys.argv[3] if len(sys.argv) > 3 else "")
arrays = [pa.array(texts[begin : begin + 2000]) for begin in range(0, len(texts), 2000)]
stage.sign(pa.array(["warm up"]))
report(lambda: [stage.sign(array) for array in arrays])
"""
)
DATATROVE = (
    LOAD
    + """
import numpy as np, tempfile
np.seterr(all="ignore")
from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
step = MinhashDedupSignature(tempfile.mkdtemp())
def sign():
    for text in texts:
        shingles = step.get_shingles(text)
        if shingles.size:
            step.get_signature(shingles)
step.get_signature(step.get_shingles("one two three four five six"))
report(sign)
"""
)
RENSA = (
    LOAD
    + """
import string
from rensa import RMinHash
spaces = str.maketrans(string.punctuation, " " * len(string.punctuation))
def sign():
    for text in texts:
        words = text.lower().translate(spaces).split()
        one = RMinHash(num_perm=112, seed=1)
        one.update([" ".join(words[at : at + 5]) for at in range(max(1, len(words) - 4))])
        one.digest()
report(sign)
"""
)
DAFT = (
    LOAD
    + """
import daft
from daft import col
frame = daft.from_pydict({"text": texts}).collect()
def sign():
    column = col("text")
    if sys.argv[3] == "normalize":
        column = column.normalize(remove_punct=True, lowercase=True, white_space=True)
    frame.select(column.minhash(num_hashes=112, ngram_size=5, seed=1)).collect()
report(sign)
"""
)
SAME_WORDS = """
import json, sys
import numpy as np, tempfile
np.seterr(all="ignore")
from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
step = MinhashDedupSignature(tempfile.mkdtemp())
class Split:
    word_tokenize = staticmethod(str.split)
tokenizers = [step.word_tokenizer, Split()]
for text in [json.loads(line)["text"] for line in open(sys.argv[1])][:: int(sys.argv[2])]:
    told = []
    for step.word_tokenizer in tokenizers:
        shingles = step.get_shingles(text)
        told.append([int(v) for row in step.get_signature(shingles) for v in row] if shingles.size else None)
    print(json.dumps(told))
"""
EVERY = 40


def main() -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "DAFT_PROGRESS_BAR": "0", "DO_NOT_TRACK": "1"}
    rensa = peer("minhash-rensa", ["rensa==0.5.0"])
    daft = peer("minhash-daft", ["daft==0.7.26"])
    datatrove = peer("minhash-datatrove", ["datatrove==0.10.1", "xxhash<4", "spacy", "regex", "nltk", "ftfy", "tokenizers"])
    path = str(documents())

    def run(python: str, code: str, size: int, *more: str) -> dict[str, float]:
        told = timed([python, "-c", code, path, str(size), *more])["stdout"]
        result: dict[str, float] = json.loads(told.strip().splitlines()[-1])
        return result

    results = in_turn(
        {
            "gyral": lambda: run(PYTHON, GYRAL, 0),
            "gyral, as datatrove": lambda: run(PYTHON, GYRAL, 8_000_000, "datatrove"),
            "datatrove": lambda: run(datatrove, DATATROVE, 1_000_000),
            "rensa": lambda: run(rensa, RENSA, 10_000_000),
            "daft, normalize": lambda: run(daft, DAFT, 60_000_000, "normalize"),
            "daft": lambda: run(daft, DAFT, 60_000_000, "raw"),
        },
        times=3,
        warmup=0,
    )
    rate = {name: figures["mb_per_cpu_s"]["median"] for name, figures in results.items()}
    ratios = {name: round(rate["gyral"] / rate[name], 1) for name in rate}
    write("curate_minhash", {"results": results, "gyral_to": ratios, "same_signatures": same_signatures(datatrove, path)})


def same_signatures(datatrove: str, path: str) -> dict[str, Any]:
    """How far signatures of the compatible mode are datatrove's own: of its words, and of words between spaces."""
    import pyarrow as pa

    from gyral.curate.near.minhash import MinHash

    with open(path) as file:
        texts = [json.loads(line)["text"] for line in file][::EVERY]
    told = subprocess.run([datatrove, "-c", SAME_WORDS, path, str(EVERY)], check=True, capture_output=True, text=True).stdout
    theirs = [json.loads(line) for line in told.splitlines() if line.startswith("[")]
    ours = MinHash(compatible="datatrove").minima(pa.array(texts))[2].tolist()
    agree = [
        sum(a == b for a, b in zip(one, spacy, strict=True)) / 112
        for one, (spacy, _) in zip(ours, theirs, strict=True)
        if spacy
    ]
    return {
        "documents": len(texts),
        "equal_where_words_are_split_at_spaces": sum(
            one == (plain or [0] * 112) for one, (_, plain) in zip(ours, theirs, strict=True)
        ),
        "equal_with_its_tokenizer": sum(one == spacy for one, (spacy, _) in zip(ours, theirs, strict=True)),
        "mean_share_of_equal_hashes_with_its_tokenizer": round(statistics.mean(agree), 4),
    }


if __name__ == "__main__":
    main()
