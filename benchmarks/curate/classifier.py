"""Two things over hashed words: the linear quality model against fastText, and contamination against sets in plain Python.

Quality: is a mail (its body alone) wanted or spam? SpamAssassin's corpus without repeated bodies, three random splits of 70 to
30. fastText is trained with pairs of words, 25 passes and a rate of .5, on lower-cased words without punctuation, the best of
six settings that were tried; gyral with its defaults. CPU seconds: fastText's without the preparation of its input.

Contamination: the manuals of GNOME (13,131 pages) are searched for passages of their own and for items that nobody wrote, in an
index of a hundred thousand and of three million runs of 13 words. The plain sets search 200 English pages.
Command: .venv/bin/python benchmarks/curate/classifier.py (about five minutes)
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, in_turn, peer, timed, write
from texts import mails, manuals

SPLITS, ROUNDS = 3, 3
FASTTEXT = ["fasttext-numpy2-wheel==0.9.2", "pyarrow", "numpy"]

GYRAL = """
import json, sys, time
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from gyral.curate.text.quality import auc, train
table = pq.read_table(sys.argv[1])
texts, good, test = (np.array(table[name].to_pylist(), object) for name in ("text", "good", "test"))
good, test = good.astype(bool), test.astype(bool)
train(texts[good][:20], texts[~good][:20], bits=8)
start = time.process_time()
model = train(texts[good & ~test], texts[~good & ~test], 0)
trained = time.process_time()
left = pa.array(texts[test], pa.string())
model.score(left.slice(0, 1))
begin = time.process_time()
for _ in range(5):
    scores = model.score(left)
used = (time.process_time() - begin) / 5
size = sum(len(text.encode()) for text in texts[test]) / 1e6
value = auc(np.nan_to_num(scores, nan=0.5), good[test].astype(int))
print(json.dumps({"auc": value, "train_cpu_s": trained - start, "score_mb_per_cpu_s": size / used}))
"""
PEER = """
import json, re, sys, time
import fasttext, numpy as np, pyarrow.parquet as pq
table = pq.read_table(sys.argv[1]).to_pylist()
for row in table:
    row["words"] = " ".join(re.findall(r"\\\\w+", row["text"].lower()))
path = sys.argv[1] + ".txt"
with open(path, "w") as file:
    file.writelines(f"__label__{'good' if row['good'] else 'bad'} {row['words']}\\\\n" for row in table if not row["test"])
start = time.process_time()
model = fasttext.train_supervised(path, wordNgrams=2, dim=16, bucket=1 << 20, lr=0.5, epoch=25, thread=1, seed=0, verbose=0)
trained = time.process_time()
left = [row for row in table if row["test"]]
found = [model.f.predict(row["words"] + "\\\\n", 2, 0.0, "strict") for row in left]
used = time.process_time() - trained
scores = np.array([next((chance for chance, label in each if label == "__label__good"), 0.0) for each in found])
_, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
middle, good = np.cumsum(counts) - (counts - 1) / 2, np.array([row["good"] for row in left])
many = good.sum()
auc = (middle[ranks][good].sum() - many * (many + 1) / 2) / (many * (~good).sum())
size = sum(len(row["text"].encode()) for row in left) / 1e6
print(json.dumps({"auc": float(auc), "train_cpu_s": trained - start, "score_mb_per_cpu_s": size / used}))
""".replace("\\\\", "\\")
CONTAMINATION = """
import json, random, sys, time, unicodedata
import pyarrow as pa, pyarrow.parquet as pq
from gyral.curate.text.contamination import build
from gyral.curate.text.evaluation_sets import Item
texts = pq.read_table(sys.argv[1])["text"].to_pylist()
chance = random.Random(0)
own = [text.split() for text in chance.sample([text for text in texts if len(text.split()) > 80], 500)]
items = [" ".join(words[20:80]) for words in own]
words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(20_000)]
items += [" ".join(chance.choices(words, k=60)) for _ in range(int(sys.argv[2]))]
start = time.process_time()
index = build({"set": [Item(str(number), text) for number, text in enumerate(items)]})
built = time.process_time() - start
array = pa.array(texts)
index.find(array.slice(0, 1))
start = time.process_time()
shares, best = index.find(array)
used = time.process_time() - start
found = index.find(pa.array([" ".join(words) for words in own]))[0]
def runs(text):
    text = text.lower().split()
    return {tuple(text[at : at + 13]) for at in range(len(text) - 12)}
def plain_words(text):
    chars = (char if unicodedata.category(char)[0] in "LNM" else " " for char in text)
    return "".join(f" {char} " if "\\u2e80" <= char <= "\\u9fff" else char for char in chars)
plain = [plain_words(text) for text in texts[:200]]
sets = [runs(plain_words(text)) for text in items[:500]]
where = {}
for number, each in enumerate(sets):
    for run in each:
        where.setdefault(run, []).append(number)
start = time.process_time()
naive = []
for text in plain:
    counts = {}
    for run in runs(text):
        for number in where.get(run, ()):
            counts[number] = counts.get(number, 0) + 1
    naive.append(max((count / len(sets[number]) for number, count in counts.items()), default=0.0))
slow = sum(len(text.encode()) for text in plain) / 1e6 / (time.process_time() - start)
same = build({"set": [Item(str(number), text) for number, text in enumerate(items[:500])]}).find(array.slice(0, 200))[0]
size = sum(len(text.encode()) for text in texts) / 1e6
print(json.dumps({"same_as_plain_sets": float((abs(same - naive) < 1e-6).mean()), "runs": len(index.keys),
    "build_cpu_s": built, "mb_per_cpu_s": size / used, "plain_sets_mb_per_cpu_s": slow,
    "passages_found": float((found == 1).mean()), "contaminated": int((shares > 0.5).sum())}))
"""


def main() -> None:
    python = peer("curate-fasttext", FASTTEXT)
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        bodies, good = _bodies()
        splits = []
        for number in range(SPLITS):
            path = Path(folder, f"mails{number}.parquet")
            test = np.random.default_rng(number).random(len(good)) < 0.3
            pq.write_table(pa.table({"text": bodies, "good": good, "test": test}), path)
            each = in_turn(
                {"gyral": lambda path=path: _run(PYTHON, GYRAL, path), "fasttext": lambda path=path: _run(python, PEER, path)},
                1,
                warmup=0,
            )
            splits.append({name: {figure: value["median"] for figure, value in each[name].items()} for name in each})
        medians = {
            name: {figure: float(np.median([split[name][figure] for split in splits])) for figure in splits[0][name]}
            for name in splits[0]
        }
        results["classifier"] = {
            "mails": len(good),
            "spam": len(good) - sum(good),
            "splits": splits,
            "medians": medians,
            "times_faster": round(medians["gyral"]["score_mb_per_cpu_s"] / medians["fasttext"]["score_mb_per_cpu_s"], 1),
        }
        path = Path(folder, "manuals.parquet")
        pq.write_table(pa.table({"text": manuals(Path(folder))}), path)
        results["contamination"] = in_turn(
            {
                f"items_{500 + foreign}": lambda foreign=foreign: _run(PYTHON, CONTAMINATION, path, str(foreign))
                for foreign in (1_500, 60_000)
            },
            ROUNDS,
            warmup=0,
        )
    write("curate_classifier", {"results": results})


def _run(python: str, code: str, path: Path, more: str = "") -> dict[str, float]:
    return dict(json.loads(str(timed([python, "-c", code, str(path), more])["stdout"]).strip().splitlines()[-1]))


def _bodies() -> tuple[list[str], list[bool]]:
    bodies, good, seen = [], [], set()
    for name, mail in mails():
        body = mail.replace("\r\n", "\n").partition("\n\n")[2]
        digest = hashlib.sha256(re.sub(r"\W+", " ", body.lower()).encode()).digest()
        if digest not in seen and len(body) >= 20:
            seen.add(digest)
            bodies.append(body)
            good.append("/spam-" not in name)
    return bodies, good


if __name__ == "__main__":
    main()
