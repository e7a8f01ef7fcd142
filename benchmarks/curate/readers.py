"""Reading: WARC.gz against warcio, FastWARC alone and datatrove's reader; JSON lines against json, and datatrove's reader.

The WARC holds the 181 article pages and 1,000 pages of Debian's handbook, as Common Crawl packs them. gyral gives batches of
the schema of documents: HTML and text of responses, with address, host, declared language and place; datatrove's reader is
given no extraction (its records keep the HTML); warcio and FastWARC read the body of every response and nothing else. CPU
seconds of the process from opening to the last document, each in a process of its own, in turn; medians of the rounds.

Command: .venv/bin/python benchmarks/curate/readers.py (about two minutes)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from corpus import articles, handbook, write_warc

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, in_turn, peer, timed, write

ROUNDS = 3
TIMED = """
import json, sys, time
from pathlib import Path
path = Path(sys.argv[1])
{setup}
start = time.process_time()
count = size = 0
{loop}
print(json.dumps({{"read_cpu_s": time.process_time() - start, "documents": count, "bytes": size}}))
"""
GYRAL = TIMED.format(
    setup="""
from gyral.curate.readers import open_place, read
import gyral.curate.readers.finding, gyral.curate.readers.warc, gyral.curate.readers.jsonl, fastwarc.warc, pyarrow.compute
""",
    loop="""
for part in open_place(str(path), path.parent, lambda line: None).parts:
    for batch in read(part):
        count += batch.num_rows
        size += batch["raw"].nbytes + batch["text"].nbytes
""",
)
FASTWARC = TIMED.format(
    setup="from fastwarc.warc import ArchiveIterator, WarcRecordType",
    loop="""
for record in ArchiveIterator(str(path), record_types=WarcRecordType.response, fsspec_args=False):
    size += len(record.reader.read())
    count += 1
""",
)
WARCIO = TIMED.format(
    setup="from warcio.archiveiterator import ArchiveIterator",
    loop="""
with open(path, "rb") as file:
    for record in ArchiveIterator(file):
        if record.rec_type == "response":
            size += len(record.content_stream().read())
            count += 1
""",
)
DATATROVE = TIMED.format(
    setup="""
from datatrove.pipeline.readers import READER
reader = READER(str(path.parent), glob_pattern=path.name)
""",
    loop="""
for document in reader.run(None, 0, 1):
    size += len(document.text)
    count += 1
""",
)
JSON = TIMED.format(
    setup="",
    loop="""
with open(path, "rb") as file:
    for line in file:
        size += len(json.loads(line)["text"])
        count += 1
""",
)


def main() -> None:
    warcio = peer("warcio", ["warcio==1.8.1"])
    datatrove = peer("datatrove", ["datatrove[io,processing]==0.10.1", "lxml_html_clean", "spacy"])
    _, pages, _ = articles()
    bodies = [*pages.values(), *handbook(1_000).values()]
    with tempfile.TemporaryDirectory() as temporary:
        warc, lines = Path(temporary) / "a.warc.gz", Path(temporary) / "a.jsonl"
        write_warc(warc, bodies)
        with open(lines, "w") as file:
            for number, body in enumerate(bodies):
                record = {"text": body.decode("utf-8", "replace"), "url": f"https://a.example/{number}", "id": number}
                file.write(json.dumps(record, ensure_ascii=number % 2 == 0) + "\n")

        def run(python: str, code: str, path: Path) -> dict[str, float]:
            done = timed([python, "-c", code, str(path)])
            return {**json.loads(str(done.pop("stdout")).strip().splitlines()[-1]), **done}

        def trove(reader: str) -> str:
            return DATATROVE.replace("READER", reader)

        sets = {
            "warc_gz": (
                warc,
                {
                    "gyral": (PYTHON, GYRAL),
                    "fastwarc_alone": (PYTHON, FASTWARC),
                    "warcio": (warcio, WARCIO),
                    "datatrove": (datatrove, trove("WarcReader")),
                },
            ),
            "jsonl": (
                lines,
                {"gyral": (PYTHON, GYRAL), "json": (PYTHON, JSON), "datatrove": (datatrove, trove("JsonlReader"))},
            ),
        }
        told: dict[str, object] = {}
        for name, (path, programs) in sets.items():
            runs = {
                who: (lambda python=python, code=code, path=path: run(python, code, path))
                for who, (python, code) in programs.items()
            }
            results = in_turn(runs, ROUNDS, warmup=0)
            size = sum(map(len, bodies)) if name == "warc_gz" else path.stat().st_size
            rates = {who: round(size / 1e6 / figures["read_cpu_s"]["median"]) for who, figures in results.items()}
            told[name] = {
                "documents": len(bodies),
                "file_megabytes": round(path.stat().st_size / 1e6, 1),
                "megabytes": round(size / 1e6, 1),
                "mb_per_cpu_s": rates,
                "to_each": {who: round(rates["gyral"] / rate, 2) for who, rate in rates.items()},
                "results": results,
            }
    write("curate_readers", {"rounds": ROUNDS, **told})


if __name__ == "__main__":
    main()
