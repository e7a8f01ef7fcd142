"""The rules of Gopher, C4 and FineWeb against datatrove's four filters: the same decisions? and bytes of text a CPU second.

Texts: English pages of Debian documentation (an FAQ of essays, the handbook, manuals of git, PostgreSQL, Python, GNOME), HTML
to text by resiliparse. gyral reads all of them; datatrove some, drawn by a hash: each filter by itself on each text, and its
pipeline in FineWeb's order, where a text that was dropped is not looked at again (C4 with `filter_no_terminal_punct=False`, as
FineWeb has it). datatrove keeps the words of the last texts, so its filters share one tokenisation in both. CPU seconds of the
process around the filters alone, in turn with gyral's on the same texts; medians of the rounds.
GNOME's pages are in 40 languages: what gyral drops of each, by the language that the folder declares.
Command: .venv/bin/python benchmarks/curate/rules.py (about ten CPU minutes)
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, in_turn, peer, timed, write

from gyral.packages.fetch import fetch

PACKAGES = ["anarchism", "debian-handbook", "git-doc", "postgresql-doc-15", "python3.11-doc", "gnome-user-docs"]
SAMPLE, ROUNDS = 300, 1

GYRAL = """
import json, sys, time
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from gyral.config import Config
from gyral.config.curation import C4, Quality
from gyral.curate.text.heuristics import limits
from gyral.curate.text.statistics import Statistics
root, name = Path(sys.argv[1]), sys.argv[2]
OPS = {"<": np.less, ">": np.greater}
def reasons(batch, rules):
    columns = {name: batch.column(name) for name in batch.schema.names}
    found = np.full(batch.num_rows, -1)
    for number, rule in enumerate(rules):
        holds = OPS[rule.op](rule.value(columns), rule.threshold)
        found[holds & (found < 0)] = number
    return [rules[number].reason if number >= 0 else "" for number in found]
batch = pq.read_table(root / f"{name}.parquet").combine_chunks().to_batches()[0]
pipeline, alone = Config(), Config(quality=Quality(c4=C4(enabled=False)))
stage, whole = Statistics.of(pipeline), Statistics.of(alone)
stage(batch.slice(0, 2))  # compiles, or finds what is compiled
rules = limits(pipeline.quality)
start = time.process_time()
counted = stage(batch)
done = time.process_time()
together = reasons(counted, rules)
decided = time.process_time()
part = lambda names: [rule for rule in rules if rule.reason.startswith(names)]
repetition = part(("gopher_empty", "gopher_dup", "gopher_top"))
of = {
    "gopher_repetition": reasons(counted, repetition),
    "gopher_quality": reasons(counted, [rule for rule in part("gopher_") if rule not in repetition]),
    "c4": reasons(counted, part("c4_")),
    "fineweb": reasons(whole(batch), part("fineweb_")),
    "pipeline": together,
}
(root / f"{name}-gyral.json").write_text(json.dumps(of))
print(json.dumps({"count_s": done - start, "decide_s": decided - done, "total_s": decided - start}))
"""
DATATROVE = """
import json, sys, time
from pathlib import Path
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.utils.text import split_into_parts
root, name = Path(sys.argv[1]), sys.argv[2]
texts = json.loads((root / f"{name}.json").read_text())
filters = {"gopher_repetition": GopherRepetitionFilter(), "gopher_quality": GopherQualityFilter(),
    "c4": C4QualityFilter(filter_no_terminal_punct=False), "fineweb": FineWebQualityFilter()}
def reason(filter, doc):
    result = filter.filter(doc)
    return "" if result is True else result[1]
for filter in filters.values():  # loads the tokenizer
    filter.filter(Document(text="A word. " * 100, id="0"))
start = time.process_time()
together = []
for text in texts:
    doc, found = Document(text=text, id="0"), ""
    for filter in filters.values():
        found = reason(filter, doc)
        if found:
            break
    together.append(found)
pipeline = time.process_time()
of = {name: [] for name in filters}
for text in texts:
    for each, filter in filters.items():
        of[each].append(reason(filter, Document(text=text, id="0")))
done = time.process_time()
(root / f"{name}-datatrove.json").write_text(json.dumps({**of, "pipeline": together}))
print(json.dumps({"pipeline_s": pipeline - start, "total_s": done - pipeline}))
"""


def main() -> None:
    datatrove = peer("curate-rules", ["datatrove[processing]==0.10.1", "xxhash<4", "spacy>=3.8,<3.9"])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pages = list(_pages())
        english = [text for _, language, text in pages if language == "en"]
        drawn = sorted(english, key=lambda text: hashlib.sha256(text.encode()).hexdigest())[:SAMPLE]
        for name, texts in (("all", english), ("sample", drawn)):
            pq.write_table(pa.table({"text": texts}), root / f"{name}.parquet")
            (root / f"{name}.json").write_text(json.dumps(texts))

        def run(python: str, code: str, name: str) -> dict[str, float]:
            done = timed([python, "-c", code, str(root), name])
            return {**json.loads(str(done.pop("stdout")).strip().splitlines()[-1]), **done}

        results = in_turn(
            {
                "gyral_all": lambda: run(PYTHON, GYRAL, "all"),
                "gyral": lambda: run(PYTHON, GYRAL, "sample"),
                "datatrove": lambda: run(datatrove, DATATROVE, "sample"),
            },
            ROUNDS,
            warmup=0,
        )
        agreement = _agreement(root)
        languages = _languages(root, [(language, text) for source, language, text in pages if source == "gnome-user-docs"])
    size_all, size = (sum(len(text.encode()) for text in texts) / 1e6 for texts in (english, drawn))
    medians = {name: {figure: each["median"] for figure, each in figures.items()} for name, figures in results.items()}
    write(
        "curate_rules",
        {
            "texts": len(english),
            "megabytes": round(size_all, 2),
            "sample": {"texts": len(drawn), "megabytes": round(size, 2)},
            "mb_per_cpu_s": {
                "gyral, counts and decisions, all texts": round(size_all / medians["gyral_all"]["total_s"], 1),
                "gyral, the sample": round(size / medians["gyral"]["total_s"], 1),
                "datatrove, pipeline, the sample": round(size / medians["datatrove"]["pipeline_s"], 3),
                "datatrove, each filter on each text": round(size / medians["datatrove"]["total_s"], 3),
            },
            "to_datatrove_pipeline": round(medians["datatrove"]["pipeline_s"] / medians["gyral"]["total_s"]),
            "to_datatrove_filters": round(medians["datatrove"]["total_s"] / medians["gyral"]["total_s"]),
            "decisions": agreement,
            "dropped_by_language": languages,
            "results": results,
        },
    )


def _pages() -> Iterator[tuple[str, str, str]]:
    """Package, language and text of the pages."""
    from resiliparse.extract.html2text import extract_plain_text

    for name in PACKAGES:
        package = fetch(f"apt:{name}", lambda text: print(text, file=sys.stderr))
        root = package.folder / "unpacked"
        if not root.exists():
            subprocess.run(["dpkg-deb", "-x", package.path, root], check=True)
        for path in sorted(root.rglob("*.page" if name == "gnome-user-docs" else "*.html")):
            if path.is_symlink():
                continue
            if path.suffix == ".page":
                language, text = _folder_of(path), _mallard(path)
            else:
                text = extract_plain_text(path.read_text(errors="replace"), main_content=name != "debian-handbook")
                language = "en" if name != "debian-handbook" or "/en-US/" in str(path) else ""
            if language and text.strip():
                yield name, language, text


def _folder_of(path: Path) -> str:
    folder = path.parts[path.parts.index("help") + 1]
    return "en" if folder == "C" else folder.partition("_")[0].partition("@")[0]


def _mallard(path: Path) -> str:
    try:
        elements = list(ElementTree.parse(path).iter())
    except ElementTree.ParseError:
        return ""
    blocks = [" ".join("".join(each.itertext()).split()) for each in elements if each.tag.rpartition("}")[2] in ("p", "title")]
    return "\n".join(block for block in blocks if block)


def _agreement(root: Path) -> dict[str, Any]:
    """Of each filter: equal decisions, equal reasons, and where decisions differ, (datatrove's, gyral's) reason: number."""
    ours, theirs = (json.loads((root / f"sample-{name}.json").read_text()) for name in ("gyral", "datatrove"))
    found = {}
    for name, reasons in theirs.items():
        pairs = [(_plain(theirs_), _plain(ours_)) for theirs_, ours_ in zip(reasons, ours[name], strict=True)]
        differ = Counter(f"{a or 'kept'} | {b or 'kept'}" for a, b in pairs if a != b)
        found[name] = {
            "texts": len(pairs),
            "dropped": sum(a != "" for a, _ in pairs),
            "same_decision": round(sum((a == "") == (b == "") for a, b in pairs) / len(pairs), 4),
            "same_reason": round(sum(a == b for a, b in pairs) / len(pairs), 4),
            "differences": dict(differ),
            "reasons": dict(Counter(a for a, _ in pairs if a)),
        }
    return found


def _plain(reason: str) -> str:
    """A reason as both can name it."""
    reason = reason.removeprefix("gopher_").removeprefix("c4_").removeprefix("fineweb_")
    return {"enough_stop_words": "few_stop_words"}.get(reason, reason)


def _languages(root: Path, pages: list[tuple[str, str]]) -> dict[str, Any]:
    """Of each language: pages, and the share that each rule set drops."""
    languages = [language for language, _ in pages]
    pq.write_table(pa.table({"text": [text for _, text in pages], "language": languages}), root / "languages.parquet")
    timed([PYTHON, "-c", GYRAL, str(root), "languages"])
    reasons = json.loads((root / "languages-gyral.json").read_text())
    found = {}
    for language, pages_of in sorted(Counter(languages).items()):
        rows = [row for row, name in enumerate(languages) if name == language]
        shares = {name: round(sum(of[row] != "" for row in rows) / len(rows), 3) for name, of in reasons.items()}
        common = Counter(reasons["pipeline"][row] for row in rows if reasons["pipeline"][row]).most_common(3)
        found[language] = {"pages": pages_of, **shares, "most": dict(common)}
    return found


if __name__ == "__main__":
    main()
