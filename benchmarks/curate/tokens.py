"""Text → shards of tokens: what each way costs beside the tokenizer itself, which is the same for all.

Every third page of two packages of documentation in 50 languages (`prose.py`), one tokenizer of 32,768 tokens trained on them.

- floor: read the Parquet file, `encode_batch_fast` in batches of 1 MB, keep nothing: less than this nobody can need.
- gyral: the same batches, an end token a document, shards of uint16 with the places of the documents, digests, fsync.
- gyral_packed: the same, packed best fit into sequences of 2,048 + 1.
- datatrove: `ParquetReader` and `DocumentTokenizer`, not shuffled, end token by its post-processor; uint16 and where documents
  end.
- datasets: Hugging Face `datasets`, `map` twice: tokenize, then concatenate and cut into blocks of 2,048, as in the library's
  examples of language modeling (`group_texts`); ends up as Arrow. An end token is added to each list.

Each in a process of its own, one thread, in turn; medians of the rounds. The tokens of gyral and datatrove are the same bytes,
by their digest. `start` is the same with one page: imports, which are taken off in `tokens_per_cpu_s` and `beside_floor`.
Caveat: peers write no digests, do not flush to the disk and cannot go on after a kill within a file.
Command: .venv/bin/python benchmarks/curate/tokens.py (about eight minutes)
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import PYTHON, in_turn, peer, timed, write
from prose import prose

ROUNDS, EVERY, LENGTH = 3, 3, 2_048
ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "RAYON_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}

MAKE = """
import json, sys, time
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from gyral.config.curation import Mix, Tokens
from gyral.curate.mix import Sampler, mix
from gyral.curate.tokens import drawn, fertility, train
pages, folder, every = pq.read_table(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
pages = pages.take(np.arange(0, pages.num_rows, every))
pq.write_table(pages.select(["text"]), folder / "pages.parquet")
pq.write_table(pages.select(["text"]).slice(0, 1), folder / "one.parquet")
languages, packages = (pages[name].combine_chunks().dictionary_encode() for name in ("language", "package"))
names = languages.dictionary.to_pylist(), packages.dictionary.to_pylist()
sizes = pa.compute.binary_length(pages["text"]).to_numpy().astype(np.int64)
codes = [each.indices.to_numpy() for each in (languages, packages)]
found = {}
for temperature in (1.0, 3.0):
    settings, by = Tokens(vocab_size=32_768), Mix(temperature=temperature)
    start = time.process_time()
    made = mix(*codes, sizes, names, by)
    tokenizer = train(drawn(pages["text"], Sampler(made.copies, 0))(0), settings)
    took = time.process_time() - start
    if temperature == 1.0:
        tokenizer.save(folder)
    lines = fertility(tokenizer, pages["text"].to_pylist(), pages["language"].to_pylist())
    few = [line for line in lines if line.language in ("en", "de", "ru", "ja", "zh", "hi", "ta", "kn", "is", "eu")]
    found[str(temperature)] = {
        "train_cpu_s": round(took, 2),
        "bytes_per_token": {line.language: line.bytes_per_token for line in few},
        "tokens": sum(line.tokens for line in lines),
    }
print(json.dumps({"documents": pages.num_rows, "bytes": int(sizes.sum()), "by_temperature": found}))
"""
FLOOR = """
import sys
import pyarrow.parquet as pq
from tokenizers import Tokenizer
folder, name = sys.argv[1:3]
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
texts, size = [], 0
for text in pq.read_table(f"{folder}/{name}.parquet")["text"].to_pylist():
    texts.append(text)
    size += len(text)
    if size > 1_000_000:
        tokenizer.encode_batch_fast(texts)
        texts, size = [], 0
tokenizer.encode_batch_fast(texts)
"""
GYRAL = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
from gyral.config.curation import Tokens
from gyral.curate.packing import write_shards
from gyral.curate.tokens import encoded
from gyral.engine.local import LocalEngine
from gyral.model.tokenizer import Tokenizer
folder, name, into, packing, length = sys.argv[1:]
texts = pq.read_table(f"{folder}/{name}.parquet")["text"]
tokenizer, engine = Path(folder, "tokenizer.json"), LocalEngine(threads=1)
settings = Tokens(packing=packing, sequence_tokens=int(length))
batches = lambda first: encoded(engine, tokenizer, texts.slice(first).chunks)
write_shards(Path(into), batches, Tokenizer.load(tokenizer), settings)
"""
DATATROVE = """
import sys
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer
folder, name, into = sys.argv[1:4]
reader = ParquetReader(folder, glob_pattern=name + ".parquet")
writer = DocumentTokenizer(into, folder + "/tokenizer.json", eos_token="<|endoftext|>", shuffle_documents=False)
writer.run(reader.run(), 0, 1)
"""
DATASETS = """
import sys
from itertools import chain
from datasets import load_dataset
from tokenizers import Tokenizer
folder, name, into, _, length = sys.argv[1:]
tokenizer, length = Tokenizer.from_file(folder + "/tokenizer.json"), int(length)
eos = tokenizer.token_to_id("<|endoftext|>")
def tokenize(batch):
    return {"input_ids": [each.ids + [eos] for each in tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)]}
def group_texts(examples):
    concatenated = {k: list(chain(*examples[k])) for k in examples}
    total = len(concatenated["input_ids"]) // length * length
    return {k: [t[i : i + length] for i in range(0, total, length)] for k, t in concatenated.items()}
pages = load_dataset("parquet", data_files=f"{folder}/{name}.parquet", split="train", cache_dir=into)
pages = pages.map(tokenize, batched=True, remove_columns=["text"])
pages.map(group_texts, batched=True).save_to_disk(into + "/blocks")
"""
READ = """
import json, sys, time
from pathlib import Path
import numpy as np
from gyral.lake.order import permuted
from gyral.lake.tokens import TokenShards
took = {}
for name, length in (("gyral", int(sys.argv[2])), ("gyral_packed", 0)):
    shards = TokenShards(Path(sys.argv[1], name))
    total = shards.num_sequences(length or shards.manifest.sequence_tokens)
    start, number = time.process_time(), 0
    while time.process_time() - start < 2:
        places = permuted(np.arange(number, number + 32) % total, total, 0)
        shards.sequences(places, length)
        number += 32
    took[name] = round(number / (time.process_time() - start))
print(json.dumps(took))
"""


def main() -> None:
    os.environ.update(ENVIRONMENT)
    other = peer("curate-tokens", ["datatrove==0.10.1", "xxhash<4", "tokenizers==0.23.3", "datasets"])
    kinds = {
        "floor": (PYTHON, FLOOR, ""),
        "gyral": (PYTHON, GYRAL, "concatenated"),
        "gyral_packed": (PYTHON, GYRAL, "best_fit"),
        "datatrove": (other, DATATROVE, ""),
        "datasets": (other, DATASETS, ""),
    }
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run([PYTHON, "-c", MAKE, prose(), folder, str(EVERY)], check=True, capture_output=True)
        corpus = json.loads(made.stdout)
        number = 0

        def run(kind: str, name: str) -> dict[str, float]:
            nonlocal number
            number += 1
            python, code, packing = kinds[kind]
            into = f"{folder}/{kind}-{name}-{number}"
            done = timed([python, "-c", code, folder, name, into, packing, str(LENGTH)])
            Path(folder, kind).unlink(missing_ok=True)
            Path(folder, kind).symlink_to(into)
            return done

        start = in_turn({kind: lambda kind=kind: run(kind, "one") for kind in kinds}, 3)
        whole = in_turn({kind: lambda kind=kind: run(kind, "pages") for kind in kinds}, ROUNDS)
        digests = {
            hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(folder, kind).glob(pattern)))).hexdigest()
            for kind, pattern in (("gyral", "*.tokens"), ("datatrove", "*.ds"))
        }
        if len(digests) != 1:
            raise SystemExit("gyral and datatrove made other tokens")
        manifests = {kind: json.loads(Path(folder, kind, "manifest.json").read_text()) for kind in ("gyral", "gyral_packed")}
        read = json.loads(subprocess.run([PYTHON, "-c", READ, folder, str(LENGTH)], check=True, capture_output=True).stdout)
    used = {kind: whole[kind]["cpu_s"]["median"] - start[kind]["cpu_s"]["median"] for kind in kinds}
    tokens = manifests["gyral"]["tokens"]
    packed = manifests["gyral_packed"]
    write(
        "curate_tokens",
        {
            "corpus": corpus,
            "tokens": tokens,
            "identical_tokens": True,
            "start": {kind: start[kind]["cpu_s"] for kind in kinds},
            "runs": whole,
            "tokens_per_cpu_s": {kind: round(tokens / value) for kind, value in used.items()},
            "beside_floor": {kind: round(used[kind] / used["floor"] - 1, 3) for kind in kinds if kind != "floor"},
            "padding": round(packed["padding"] / packed["tokens"], 5),
            "cut_documents": packed["cut_documents"],
            "sequences_read_per_cpu_s": read,
        },
    )


if __name__ == "__main__":
    main()
