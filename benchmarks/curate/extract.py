"""Main text of HTML: the stage `extract` against trafilatura, quality by the article benchmark's own evaluation, and speed.

Sets: the 181 article pages of scrapinghub/article-extraction-benchmark, which have ground truth, and 300 pages of Debian's
handbook in 25 languages, which are small and dense. Both read the same bytes; only extraction is timed, in CPU seconds of the
process, each in a process of its own, in turn; medians of the rounds.

Command: .venv/bin/python benchmarks/curate/extract.py (about three minutes)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from corpus import articles, handbook, write_pages

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, in_turn, peer, timed, write

ROUNDS = 3
GYRAL = """
import json, sys, time
from pathlib import Path
from gyral.curate.readers.rows import Row, Rows
from gyral.curate.text.extract import Extract
def batch(raws):
    rows = Rows()
    for raw in raws:
        full = rows.add(Row("", 0, "html", raw=raw))
        if full: yield full
    yield rows.take()
raws = [path.read_bytes() for path in sorted(Path(sys.argv[1]).glob("*.html"))]
extract = Extract()
list(map(extract, batch(raws[:1])))
start = time.process_time()
texts = [text for each in batch(raws) for text in extract(each)["text"].to_pylist()]
cpu_s = time.process_time() - start
Path(sys.argv[2]).write_text(json.dumps([text or "" for text in texts]))
print(json.dumps({"extract_cpu_s": cpu_s}))
"""
TRAFILATURA = """
import json, sys, time
from pathlib import Path
import trafilatura
raws = [path.read_bytes() for path in sorted(Path(sys.argv[1]).glob("*.html"))]
trafilatura.extract(raws[0])
start = time.process_time()
texts = [trafilatura.extract(raw, include_comments=False) for raw in raws]
cpu_s = time.process_time() - start
Path(sys.argv[2]).write_text(json.dumps([text or "" for text in texts]))
print(json.dumps({"extract_cpu_s": cpu_s}))
"""


def main() -> None:
    python = peer("trafilatura", ["trafilatura==2.3.1", "lxml_html_clean"])
    folder, pages, evaluate = articles()
    truth = json.loads((folder / "ground-truth.json").read_text())
    sets = {"articles": pages, "handbook": handbook(300)}
    told: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name, every in sets.items():
            write_pages(root / name, every)
            size = sum(map(len, every.values())) / 1e6

            def run(python: str, code: str, who: str, name: str = name) -> dict[str, float]:
                done = timed([python, "-c", code, str(root / name), str(root / f"{name}-{who}.json")])
                return {**json.loads(str(done.pop("stdout")).strip().splitlines()[-1]), **done}

            results = in_turn(
                {
                    "gyral": lambda run=run: run(PYTHON, GYRAL, "gyral"),
                    "trafilatura": lambda run=run: run(python, TRAFILATURA, "trafilatura"),
                },
                ROUNDS,
                warmup=0,
            )
            rates = {who: round(size / figures["extract_cpu_s"]["median"], 1) for who, figures in results.items()}
            told[name] = {
                "pages": len(every),
                "megabytes": round(size, 1),
                "mb_per_cpu_s": rates,
                "to_trafilatura": round(rates["gyral"] / rates["trafilatura"], 1),
                "results": results,
            }
        quality = {}
        for who in ("gyral", "trafilatura"):
            texts = json.loads((root / f"articles-{who}.json").read_text())
            found = {name: {"articleBody": text} for name, text in zip(pages, texts, strict=True)}
            metrics = evaluate.evaluate(truth, found, 1000)
            quality[who] = {key: round(metrics[key], 4) for key in ("f1", "f1_std", "precision", "recall")}
    write("curate_extract", {"rounds": ROUNDS, "quality": quality, **told})


if __name__ == "__main__":
    main()
