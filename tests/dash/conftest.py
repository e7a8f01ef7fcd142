"""A project folder written by hand, in the formats that the verbs write: six turns of a loop and their 25 runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from gyral.dash.changes import SCRIPT
from gyral.serve.http1.server import Server, listen

START = datetime(2026, 3, 12, 13, 30, tzinfo=UTC)
LOOPED = (0.1472, 0.1611, 0.1733, 0.1846, 0.1902, 0.1987)
FROZEN = (0.1472, 0.1438, 0.1391, 0.1362, 0.1327, 0.1304)
POPULARITY = (0.0712, 0.0698, 0.0731, 0.0689, 0.0703, 0.0694)
NUM_TURNS = 6
ROWS = 541_909


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=2), encoding="utf-8")


def _at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _lines(root: Path, number: int, rows: list[dict[str, Any]]) -> None:
    _write(root / f"runs/{number}/metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _progress(begin: float, verb: str, unit: str, total: float, seconds: float, steps: int = 12) -> list[dict[str, Any]]:
    rows = []
    for step in range(1, steps + 1):
        done, elapsed = total * step / steps, seconds * step / steps
        rate = total / seconds * (1 + 0.08 * ((step * 7) % 5 - 2))
        rows.append(
            {
                "time": START.timestamp() + begin + elapsed,
                "type": "progress",
                "verb": verb,
                "done": round(done),
                "total": total,
                "unit": unit,
            }
            | {"rate": rate, "metric": {}, "eta": seconds - elapsed, "elapsed": elapsed}
        )
    return rows


def _lineage(root: Path, number: int, verb: str, begin: float, seconds: float, **fields: Any) -> None:
    record = {
        "run": number,
        "verb": verb,
        "status": "done",
        "started": _at(begin),
        "parent": 1,
        "ended": _at(begin + seconds),
        "elapsed_s": seconds,
        "cpu_s": round(0.8 * seconds, 3),
        "pid": 4_000_000,
        "pid_started": "0",
        "command": "",
        "seed": 0,
        "inputs": [],
        "outputs": [],
        "summary": {},
        "error": None,
        "machine": {"cores": os.cpu_count(), "system": "Linux", "processor": platform.machine()},
        "versions": {"gyral": "0.1.0", "python": "3.11.7"},
    } | fields
    _write(root / f"runs/{number}/lineage.json", record)
    _write(root / f"runs/{number}/config.toml", f'on = "local"\n\n[train]\nfamily = "recommender"\nseed = {number}\n')
    _write(root / f"runs/{number}/log.txt", f"{_at(begin)} {verb} begins\n{_at(begin + seconds)} {verb} is done\n")


def _ref(kind: str, name: str, version: str = "") -> dict[str, str]:
    return {"kind": kind, "name": name, "version": version}


def _curated(turn: int) -> dict[str, Any]:
    rows = ROWS * (turn + 1) // (NUM_TURNS + 1)
    dropped = {
        "missing_subject": int(rows * 0.2493),
        "return": int(rows * 0.0164),
        "not_a_product": int(rows * 0.0037),
        "duplicate": int(rows * 0.0093),
        "robot": 0,
    }
    return {"rows_in": rows, "rows_kept": rows - sum(dropped.values()), "dropped": dropped}


def _candidates(turn: int) -> list[dict[str, Any]]:
    best = LOOPED[turn - 1]
    scores = {
        "popularity": POPULARITY[turn - 1],
        "item_knn": best * 0.86,
        "als": best * 0.91,
        "ease": best,
        "repeat_ease": best * 0.993,
    }
    specs = {"ease": {"lambda": 250.0, "half_life_d": 90}, "als": {"rank": 64, "alpha": 20.0}, "item_knn": {"k": 100}}
    return [
        {
            "name": name,
            "ndcg_at_10": score,
            "recall_at_10": score * 0.81,
            "hit_at_10": score * 2.4,
            "chosen": name == "ease",
            "spec": specs.get(name, {}),
        }
        for name, score in scores.items()
    ]


def _model(root: Path, turn: int, train: int, compress: int, begin: float) -> None:
    card = {
        "model": f"online_retail@{turn}",
        "family": "recommender",
        "run": train,
        "dataset": f"online_retail@{turn}",
        "seed": 0,
        "created": _at(begin + 40),
        "learned_until": f"2011-{3 + turn:02d}-02T10:12:00Z",
        "num_subjects": 2_400 + 310 * turn,
        "num_objects": 3_310 + 52 * turn,
        "num_interactions": _curated(turn)["rows_kept"],
        "size_bytes": 44_700_000 + 1_210_433 * turn,
        "metric": "ndcg_at_10",
        "measured_on": "last 20 % of the learned events, 3,112 subjects",
        "candidates": _candidates(turn),
        "compression": None,
    }
    _write(root / f"models/online_retail@{turn}/card.json", card)
    before, size = LOOPED[turn - 1], card["size_bytes"]
    compression = {
        "to": "int8",
        "from": f"online_retail@{turn}",
        "metric_before": before,
        "metric_after": before * 0.9973,
        "relative_loss": 0.0027,
        "max_loss": 0.01,
        "bytes_before": size,
        "bytes_after": size // 4 + 2_048,
    }
    small = card | {
        "model": f"online_retail-int8@{turn}",
        "run": compress,
        "created": _at(begin + 44),
        "compression": compression,
        "size_bytes": size // 4 + 2_048,
    }
    _write(root / f"models/online_retail-int8@{turn}/card.json", small)


def _dataset(root: Path, turn: int, curate: int, begin: float) -> None:
    dataset, curated = f"online_retail@{turn}", _curated(turn)
    manifest = {
        "dataset": dataset,
        "kind": "interactions",
        "created": _at(begin + 2),
        "run": curate,
        "lake": {"events": {"version": turn + 1}},
        **curated,
        "subjects": 2_400 + 310 * turn,
        "objects": 3_310 + 52 * turn,
        "first_event": "2010-12-01T08:26:00Z",
        "last_event": f"2011-{3 + turn:02d}-02T10:12:00Z",
        "repeats": True,
        "repeats_from": "layout",
        "size_bytes": 1_834_112 * turn,
        "shards": [
            {
                "file": f"shard-{index:05d}.parquet",
                "rows": curated["rows_kept"] // 2,
                "sha256": f"{index}e3b0c44298fc1c149afbf4c8996fb924" * 2,
            }
            for index in range(2)
        ],
    }
    _write(root / f"datasets/{dataset}/manifest.json", manifest)


def _row(turn: int, begin: float) -> dict[str, Any]:
    """One line of the loop's metrics."""
    lines = {"looped": LOOPED[turn - 1], "frozen": FROZEN[turn - 1], "popularity": POPULARITY[turn - 1]}
    return {
        "time": START.timestamp() + begin + 60,
        "type": "turn",
        "turn": turn,
        "events": 77_415,
        "num_asked": 1_180 + 37 * turn,
        "ndcg_at_10": lines,
        "recall_at_10": {name: value * 0.62 for name, value in lines.items()},
        "hit_at_10": {name: min(value * 3.1, 1.0) for name, value in lines.items()},
        "known": {
            metric: {name: value * scale for name, value in lines.items()}
            for metric, scale in (("ndcg_at_10", 1.19), ("recall_at_10", 0.7), ("hit_at_10", 3.4))
        },
        "freshness_s": 44.3 + 1.7 * turn,
        "p99_ms": 3.9 + 0.11 * turn,
        "model": f"online_retail-int8@{turn}",
        "seconds": {
            "ingest": 0.85,
            "curate": 1.7 + 0.1 * turn,
            "train": 34.0 + 1.4 * turn,
            "compress": 2.1,
            "swap": 0.4,
            "ask": 9.0 + turn,
        },
    }


def _turn(root: Path, turn: int, number: int) -> dict[str, Any]:
    """Write the four child runs and the nouns of one turn; return the turn's row."""
    begin = (turn - 1) * 62.0
    events, curated, best = 77_415, _curated(turn), LOOPED[turn - 1]
    ingested = {
        "rows_in": events,
        "accepted": events - 12,
        "duplicate": 5,
        "quarantined": {"bad_time": 3, "no_object": 4},
        "rows_per_s": 91_234.5,
    }
    dataset, model = f"online_retail@{turn}", f"online_retail@{turn}"
    _lineage(
        root,
        number,
        "ingest",
        begin,
        0.85,
        summary=ingested,
        inputs=[_ref("source", "online_retail.parquet")],
        outputs=[_ref("lake", "events", str(turn + 1))],
    )
    _lines(root, number, _progress(begin, "ingest", "rows", events, 0.85))
    _lineage(
        root,
        number + 1,
        "curate",
        begin + 1,
        1.7,
        summary=curated,
        inputs=[_ref("lake", "events", str(turn + 1))],
        outputs=[_ref("dataset", dataset)],
    )
    _lines(root, number + 1, _progress(begin + 1, "curate", "rows", curated["rows_in"], 1.7))
    trained = {"chosen": "ease", "ndcg_at_10": best, "num_subjects": 2_400 + 310 * turn, "num_objects": 3_310 + 52 * turn}
    _lineage(
        root,
        number + 2,
        "train",
        begin + 3,
        38.2,
        summary=trained,
        inputs=[_ref("dataset", "online_retail", str(turn))],
        outputs=[_ref("model", model)],
    )
    tried = [
        {
            "time": START.timestamp() + begin + 10,
            "type": "metric",
            "candidate": row["name"],
            **{key: row[key] for key in ("ndcg_at_10", "recall_at_10", "hit_at_10")},
        }
        for row in _candidates(turn)
    ]
    _lines(root, number + 2, _progress(begin + 3, "train", "candidates", 5, 38.2, 5) + tried)
    size = 44_700_000 + 1_210_433 * turn
    small = {"to": "int8", "bytes_before": size, "bytes_after": size // 4 + 2_048, "relative_loss": 0.0027}
    _lineage(
        root,
        number + 3,
        "compress",
        begin + 42,
        2.1,
        summary=small,
        inputs=[_ref("model", model)],
        outputs=[_ref("model", f"online_retail-int8@{turn}")],
    )
    _lines(root, number + 3, _progress(begin + 42, "compress", "tensors", 4, 2.1, 4))
    _model(root, turn, number + 2, number + 3, begin)
    _dataset(root, turn, number + 1, begin)
    return _row(turn, begin)


def write_project(root: Path) -> Path:
    """Write everything below `root`."""
    turns = [_turn(root, turn, 2 + 4 * (turn - 1)) for turn in range(1, NUM_TURNS + 1)]
    _lineage(
        root,
        1,
        "loop",
        0,
        371.4,
        parent=None,
        command="gyral loop --source data/online_retail.parquet",
        summary={"turns": turns, "model": "online_retail-int8@6"},
        inputs=[_ref("source", "online_retail.parquet", "sha256:9f2c")],
        outputs=[_ref("model", "online_retail-int8", "6")],
    )
    _lines(root, 1, _progress(0, "loop", "turns", NUM_TURNS, 371.4, NUM_TURNS) + turns)
    return root


def _overview() -> dict[str, Any]:
    countries = {
        "United Kingdom": 495_478,
        "Germany": 9_495,
        "France": 8_557,
        "EIRE": 8_196,
        "Spain": 2_533,
        "Netherlands": 2_371,
        "Belgium": 2_069,
    }
    countries |= {
        "Switzerland": 2_002,
        "Portugal": 1_519,
        "Australia": 1_259,
        "Norway": 1_086,
        "Italy": 803,
        "Channel Islands": 758,
        "Finland": 695,
    }
    return {
        "tables": {
            "events": {
                "rows": 550_909,
                "version": 7,
                "bytes": 18_734_221,
                "offsets": {"ingest-0": 17, "serve-0": 9},
                "kinds": {"purchase": ROWS, "impression": 9_000},
                "countries": countries,
                "first_event": "2010-12-01T08:26:00Z",
                "last_event": "2011-12-09T12:50:00Z",
            },
            "quarantine": {
                "rows": 42,
                "version": 2,
                "bytes": 9_871,
                "offsets": {"ingest-0": 17, "serve-0": 9},
                "reasons": {"no_object": 24, "bad_time": 18},
            },
        },
        "log": {"partitions": {"ingest-0": {"end": 17, "bytes": 1_230_441}, "serve-0": {"end": 9, "bytes": 88_120}}},
    }


@pytest.fixture(scope="session")
def overview() -> Callable[[], dict[str, Any]]:
    """The lake's numbers, as the lake would hand them in."""
    return _overview


@pytest.fixture
def empty_overview() -> Callable[[], dict[str, Any]]:
    """The numbers of a lake that nobody has written to."""
    return lambda: {"tables": {}, "log": {"partitions": {}}}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a finished loop of six turns."""
    return write_project(tmp_path / "shop")


@contextlib.contextmanager
def serving(application: Any) -> Iterator[tuple[Server, str, Callable[[Any], Any]]]:
    """A server on a free port of 127.0.0.1, in a thread: itself, its address, and what runs a coroutine on its loop."""
    loop = asyncio.new_event_loop()
    server, sock = Server(application), listen("127.0.0.1", 0)
    loop.run_until_complete(server.start(sock))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def on_loop(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(20)

    try:
        yield server, f"http://127.0.0.1:{sock.getsockname()[1]}/", on_loop
        on_loop(server.stop(2))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        sock.close()
    assert not thread.is_alive()
    loop.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished loop of six turns that the tests of a module share and leave as it is."""
    return write_project(tmp_path_factory.mktemp("pages") / "shop")


@pytest.fixture
def edit_lineage(project: Path) -> Callable[..., None]:
    """Change fields of a run's `lineage.json`."""

    def edit(number: int, **fields: Any) -> None:
        path = project / f"runs/{number}/lineage.json"
        _write(path, json.loads(path.read_text()) | fields)

    return edit


@pytest.fixture
def this_process() -> dict[str, Any]:
    """Process id and start time of this process, for a run that is alive."""
    return {"pid": os.getpid(), "pid_started": Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]}


@pytest.fixture
def ask() -> Callable[..., httpx.Response]:
    """Ask an ASGI application for one path, in this process."""

    def get(application: Any, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://dash") as client:
                return await client.get(path, **options)

        return asyncio.run(send())

    return get


class _Page(HTMLParser):
    """The marks of the charts, the links, the text, whether every element was closed; `script` is one that is not ours."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.marks: list[tuple[str, str, float]] = []
        self.hrefs: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag != "script":
            self.tags.add(tag)
        if values.get("data-series") and values.get("data-y"):
            self.marks.append((str(values["data-series"]), str(values["data-x"]), float(str(values["data-y"]))))
        if tag == "a" and values.get("href"):
            self.hrefs.append(str(values["href"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"] and data != SCRIPT:
            self.tags.add("script")
        if not {"style", "title", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        """The visible text, blanks collapsed."""
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="session")
def serve_pages() -> Callable[[Any], contextlib.AbstractContextManager[Any]]:
    """Serve an application by gyral's own server."""
    return serving


@pytest.fixture
def parse() -> Callable[[str], _Page]:
    """Read a page: `marks` (series, x, y), `hrefs`, `tags`, `text`; fails on markup that does not nest."""
    return _Page
