"""The whole text pipeline: WARC.gz → main text → language → rule statistics → MinHash signature, against datatrove's.

datatrove: WarcReader, Trafilatura, GopherQualityFilter, GopherRepetitionFilter, MinhashDedupSignature (14 × 8, 5 words), one
task in one process; what trafilatura's child process uses is counted. gyral: the stages of the recipe `text` but `privacy`
and `paragraphs`: `extract`, `repair`, `digest`, `language`, `statistics` (the rules of Gopher, C4 and FineWeb), `minhash`,
written to Parquet without the raw bytes. CPU seconds are those of the whole command and its children, imports and all; a second
figure leaves out what it takes for one page.

Command: .venv/bin/python benchmarks/curate/pipeline.py (about five minutes)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from corpus import articles, handbook, write_warc

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, in_turn, peer, timed, write

ROUNDS = 2
GYRAL = """
import json, sys
from pathlib import Path
import pyarrow.parquet as pq
from gyral.config import Config
from gyral.curate import pipeline
from gyral.curate.readers import open_place, read
from gyral.curate.recipe import stages_of
warc, out = map(Path, sys.argv[1:])
stages = [each for each in stages_of("text", Config()) if each.name not in ("privacy", "paragraphs")]
writer = None
documents = texts = 0
for part in open_place(str(warc), warc.parent, lambda line: None).parts:
    for batch in read(part):
        batch = pipeline.through(batch, stages).drop_columns(["raw"])
        writer = writer or pq.ParquetWriter(out / "documents.parquet", batch.schema, compression="zstd")
        writer.write_batch(batch)
        documents += batch.num_rows
        texts += batch.num_rows - batch["text"].null_count
writer.close()
print(json.dumps({"documents": documents, "with_text": texts, "stages": [stage.name for stage in stages]}))
"""
DATATROVE = """
import json, sys
from pathlib import Path
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import WarcReader
from datatrove.utils.typeshelper import Languages
warc, out = map(Path, sys.argv[1:])
steps = [
    WarcReader(str(warc.parent), glob_pattern=warc.name),
    Trafilatura(favour_precision=True, timeout=20),
    GopherRepetitionFilter(language=Languages.english),
    GopherQualityFilter(language=Languages.english),
    MinhashDedupSignature(
        str(out / "signatures"),
        config=MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8),
        language=Languages.english,
    ),
]
stats = LocalPipelineExecutor(pipeline=steps, tasks=1, workers=1, logging_dir=str(out / "logs")).run()
told = json.loads(stats.to_json()) if hasattr(stats, "to_json") else {}
kept = [str(each.get("stats", {}).get("forwarded", "")) for each in (told if isinstance(told, list) else [])]
print(json.dumps({"forwarded": kept}))
"""


def main() -> None:
    python = peer("datatrove", ["datatrove[io,processing]==0.10.1", "lxml_html_clean", "spacy"])
    _, pages, _ = articles()
    sets = {"articles": list(pages.values()), "handbook": list(handbook(200).values())}
    told: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)

        def run(python: str, code: str, name: str) -> dict[str, float]:
            with tempfile.TemporaryDirectory(dir=root) as out:
                done = timed([python, "-c", code, str(root / f"{name}.warc.gz"), out])
            said[name, python] = json.loads(str(done.pop("stdout")).strip().splitlines()[-1])
            return done

        said: dict[tuple[str, str], dict[str, object]] = {}
        for name, bodies in sets.items():
            write_warc(root / f"{name}.warc.gz", bodies)
            write_warc(root / f"{name}-one.warc.gz", bodies[:1])
            programs = {"gyral": (PYTHON, GYRAL), "datatrove": (python, DATATROVE)}
            runs = {
                f"{who}{one}": lambda program=program, one=one, name=name: run(*program, f"{name}{one}")
                for who, program in programs.items()
                for one in ("", "-one")
            }
            results = in_turn(runs, ROUNDS, warmup=0)
            cpu_s = {who: figures["cpu_s"]["median"] for who, figures in results.items()}
            size = sum(map(len, bodies)) / 1e6
            rates = {who: round(size / cpu_s[who], 1) for who in programs}
            steady = {who: round(size / (cpu_s[who] - cpu_s[f"{who}-one"]), 1) for who in programs}
            told[name] = {
                "pages": len(bodies),
                "megabytes": round(size, 1),
                "mb_per_cpu_s": rates,
                "to_datatrove": round(rates["gyral"] / rates["datatrove"], 1),
                "mb_per_cpu_s_without_start": steady,
                "to_datatrove_without_start": round(steady["gyral"] / steady["datatrove"], 1),
                "said": {who: said[name, program[0]] for who, program in programs.items()},
                "results": results,
            }
    write("curate_pipeline", {"rounds": ROUNDS, **told})


if __name__ == "__main__":
    main()
