"""Main content of web pages: quality by two public evaluations, and bytes of HTML a CPU second, beside two peers.

CHECKOUTS holds `scrapinghub+article-extraction-benchmark` and `adbar+trafilatura`. Quality is computed as their own scripts do:
F1 of runs of four words on 181 article pages, accuracy on annotated pieces of text of the other's evaluation pages. No page of
either, nor of a site in either, was trained on. CPU seconds are those of the calls alone, pages in memory, after a warm-up.
Command: .venv/bin/python benchmarks/curate/extractor.py CHECKOUTS (a minute on an idle machine)
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import PYTHON, in_turn, peer, timed, write

ROUNDS = 3
ARTICLES, TRAFILATURA = "scrapinghub+article-extraction-benchmark", "adbar+trafilatura"
HEAD = """
import gzip, json, sys, time
from pathlib import Path
pages = {file.name: file.read_bytes() for file in sorted(Path(sys.argv[1]).iterdir())}
"""
TAIL = """
for page in list(pages.values())[:10]:
    extract(page)
start = time.process_time()
texts = {name: extract(page) for name, page in pages.items()}
spent = time.process_time() - start
Path(sys.argv[2]).write_text(json.dumps(texts))
print(json.dumps({"extract_cpu_s": spent, "mb": sum(map(len, pages.values())) / 1e6, "pages": len(pages)}))
"""
EXTRACTORS = {
    "gyral": "from gyral.curate.text.main_content import MainContent\nextract = MainContent().extract\n",
    "resiliparse": """
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree
def extract(page):
    tree = HTMLTree.parse_from_bytes(page, "utf-8", "replace")
    return extract_plain_text(tree, main_content=True, alt_texts=False, comments=False)
""",
    "trafilatura": """
import trafilatura
def extract(page):
    return trafilatura.extract(page.decode("utf-8", "replace"), include_comments=False) or ""
""",
}


def main() -> None:
    root, only = Path(sys.argv[1]), sys.argv[2:]
    pythons = {"gyral": PYTHON, "resiliparse": PYTHON}
    if not only or "trafilatura" in only:
        pythons["trafilatura"] = peer("trafilatura", ["trafilatura==2.3.1", "lxml_html_clean"])
    names = [name for name in EXTRACTORS if not only or name in only]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, unpack, rounds in (("articles", _articles, ROUNDS), ("annotated", _annotated, 1)):
            pages = Path(folder) / kind
            pages.mkdir()
            known = unpack(root, pages) or {}
            out = {name: Path(folder) / f"{kind}-{name}.json" for name in names}

            def run(name: str, pages: Path = pages, out: dict[str, Path] = out) -> dict[str, float]:
                done = timed([pythons[name], "-c", HEAD + EXTRACTORS[name] + TAIL, str(pages), str(out[name])])
                found = json.loads(str(done["stdout"]).strip().splitlines()[-1])
                return {"mb_per_cpu_s": found["mb"] / found["extract_cpu_s"], "peak_bytes": done["peak_bytes"], **found}

            measured = in_turn({name: lambda name=name: run(name) for name in names}, rounds, warmup=0)
            for name in names:
                texts = json.loads(out[name].read_text())
                quality = _score_articles(root, texts) if kind == "articles" else _score_annotated(known, texts)
                results.setdefault(name, {})[kind] = {**quality, **measured[name]}
    for name, result in results.items():
        for kind, values in result.items():
            shown = {key: values[key] for key in ("f1", "precision", "recall", "accuracy") if key in values}
            print(name, kind, {key: round(value, 4) for key, value in shown.items()}, file=sys.stderr)
            print("   MB/CPU-s", values["mb_per_cpu_s"]["all"], file=sys.stderr)
    if not only:
        write("curate_extractor", results)


def _articles(root: Path, into: Path) -> None:
    for file in (root / ARTICLES / "html").glob("*.html.gz"):
        (into / file.name.removesuffix(".html.gz")).write_bytes(gzip.decompress(file.read_bytes()))


def _score_articles(root: Path, texts: dict[str, str]) -> dict[str, float]:
    """By the benchmark's own script."""
    spec = importlib.util.spec_from_file_location("article_evaluation", root / ARTICLES / "evaluate.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"there is no {root / ARTICLES / 'evaluate.py'}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    random.seed(1)
    truth = module.load_json(root / ARTICLES / "ground-truth.json")
    result = module.evaluate(truth, {name: {"articleBody": text} for name, text in texts.items()}, 200)
    return {key: result[key] for key in ("f1", "f1_std", "precision", "recall")}


def _annotated(root: Path, into: Path) -> dict[str, Any]:
    known = json.loads((root / TRAFILATURA / "tests" / "evaldata.json").read_text())
    found = {}
    for number, record in enumerate(known.values()):
        for folder in ("cache", "eval"):
            file = root / TRAFILATURA / "tests" / folder / record["file"]
            if file.exists():
                (into / str(number)).write_bytes(_utf8(file.read_bytes()))
                found[str(number)] = record
                break
    return found


def _utf8(raw: bytes) -> bytes:
    """Bytes as every extractor gets them, so that none is measured by how it guesses charsets."""
    from gyral.curate.text.charset import charset_of

    charset, body = charset_of(raw)
    return body if charset == "utf-8" else body.decode(charset, "replace").encode("utf-8", "replace")


def _score_annotated(known: dict[str, Any], texts: dict[str, str]) -> dict[str, float]:
    """As trafilatura's `tests/eval_common.py` counts: pieces found in the text, blanks made one."""
    hits = misses = false = right = 0
    for name, record in known.items():
        text = " ".join(texts[name].split())
        wanted = [" ".join(piece.split()) in text for piece in record["with"]]
        unwanted = [" ".join(piece.split()) in text for piece in record["without"]]
        hits, misses = hits + sum(wanted), misses + len(wanted) - sum(wanted)
        false, right = false + sum(unwanted), right + len(unwanted) - sum(unwanted)
    precision, recall = hits / max(hits + false, 1), hits / (hits + misses)
    return {
        "accuracy": (hits + right) / (hits + misses + false + right),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
        "pages": len(known),
    }


if __name__ == "__main__":
    main()
