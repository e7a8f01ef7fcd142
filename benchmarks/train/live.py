"""A stream that is cut off and gone on with: what is lost, what comes twice, and what a megabyte of text costs on its way.

Claim: a run that follows the lake and is killed at any step has, gone on with, each example once, also where documents came in
meanwhile. Predicted before the first run: ours 0 lost and 0 twice; `datasets` (streaming, shuffled by a buffer of 1,000, its
own `state_dict` in the middle) loses about the 1,000 documents of its buffer, as its documentation says, and does not see what
came. CPU a MB of text, from where it is stored to rows of tokens: ours .2 s, as text is repaired and hashed on the way, theirs
.05 s.

    .venv/bin/python benchmarks/train/live.py

Texts are the Python files of this interpreter. Ours: documents in a lake, examples of 256 bytes, killed by SIGKILL. The peer:
the same documents as JSON lines, cut into as many bytes; its state is saved exactly where it stops, which a killed process does
not have, and it goes on once with the file as it was and once with what came appended. Median of 3 passes for the cost, in
turn; imports do not count.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import measure

PEERS = ["datasets==5.2.0"]
LENGTH, BATCH, BUFFER, TIMES = 256, 32, 1_000, 3
DOCUMENTS, LATER, PER_BATCH = 4_000, 400, 100
MAX_BYTES = 20_000
SETS = [
    "train.family=lm", "lm.depth=1", "lm.width=32", f"lm.length={LENGTH}", f"train.batch={BATCH}", "lm.held_out=0.0001",
    "train.stream.idle_s=0.5", f"train.stream.documents={BUFFER}", "curate.stages=['extract', 'repair', 'digest']",
    "dedup.exact=false",
]  # fmt: skip


def texts() -> list[str]:
    """Python files, the first bytes of each; where there are too few, later parts of them."""
    found: list[str] = []
    for path in sorted(Path(os.__file__).parent.rglob("*.py")):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [part for start in range(0, len(text), MAX_BYTES) if len(part := text[start : start + MAX_BYTES]) > 500]
        if len(found) >= DOCUMENTS + LATER:
            break
    return found[: DOCUMENTS + LATER]


def bring_in(root: Path, some: list[str], first: int) -> None:
    """Documents into the lake of a project."""
    from gyral.config import Config
    from gyral.event.codec import encode_payload
    from gyral.event.wire import check_json, to_columns
    from gyral.ingest.drain import Drain
    from gyral.lake.table import Lake
    from gyral.log.sqlite import SqliteLog

    lake = Lake(root)
    with SqliteLog(lake.log_folder) as log:
        for start in range(0, len(some), PER_BATCH):
            rows = [
                {
                    "event_id": f"{first + start + at}", "event_time": 1_700_000_000_000, "kind": "document", "subject": "x",
                    "object": f"{first + start + at}.py", "app": "python", "props": {"media": "text", "text": text},
                }
                for at, text in enumerate(some[start : start + PER_BATCH])
            ]  # fmt: skip
            payload = encode_payload(to_columns(check_json(json.dumps(rows).encode()).events, 1_700_000_000_000_000))
            log.append("a", f"{first + start}", payload, len(rows))
        Drain.of(lake, log, Config()).run()


def ours(root: str, folder: str, out: str, first: int, last: int) -> None:
    """Follow the lake from a step to another, or to its end, and write which examples each step had; then be killed."""
    from gyral import config as configs
    from gyral.train.loader import Ended
    from gyral.train.tasks import open_task

    config = configs.load(Path(root), SETS)
    task = open_task(Path(root), "lake:", config)
    begun = time.process_time()
    order = task.live.order(Path(folder), BATCH, 3)  # type: ignore[attr-defined]
    step, size = first, 0
    with open(out, "a") as file:
        while last < 0 or step < last:
            try:
                rows = task.batch(order.examples(step), step)["targets"].numpy()
            except Ended:
                break
            size += rows.size
            file.write(json.dumps([hash(row.tobytes()) for row in rows]) + "\n")
            step += 1
        file.flush()
    if last >= 0:
        os.kill(os.getpid(), signal.SIGKILL)
    print(json.dumps({"cpu_s": time.process_time() - begun, "bytes": size}))


def theirs(lines: str, state: str, out: str, last: int) -> None:
    """The peer: from its saved state, or the beginning, to a number of documents, or to the end."""
    import datasets

    begun = time.process_time()
    stream = datasets.load_dataset("json", data_files=lines, split="train", streaming=True).shuffle(seed=3, buffer_size=BUFFER)
    if Path(state).exists():
        stream.load_state_dict(json.loads(Path(state).read_text()))
    size, rest, rows, ids = 0, b"", 0, []
    for number, row in enumerate(stream, 1):
        ids.append(row["id"])
        body = rest + row["text"].encode() + b"\0"
        cut = len(body) // LENGTH * LENGTH
        examples = [list(body[at : at + LENGTH]) for at in range(0, cut, LENGTH)]
        rest, rows, size = body[cut:], rows + len(examples), size + len(body) - len(rest)
        if number == last:
            Path(state).write_text(json.dumps(stream.state_dict()))
            break
    Path(out).write_text(json.dumps(ids))
    print(json.dumps({"cpu_s": time.process_time() - begun, "bytes": size}))


def call(python: str, *words: Any) -> dict[str, float]:
    """A part of this script in a process of its own; what was killed tells nothing."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }
    done = subprocess.run([python, __file__, *map(str, words)], capture_output=True, text=True, env=environment)
    if done.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    return found


def differences(seen: list[Any], wanted: list[Any]) -> dict[str, int]:
    """What was missed, and what came more often than it should."""
    return {"lost": (Counter(wanted) - Counter(seen)).total(), "twice": (Counter(seen) - Counter(wanted)).total()}


def examples_in(path: Path) -> list[Any]:
    """All examples that were written down."""
    return [each for line in path.read_text().splitlines() for each in json.loads(line)]


def main() -> None:
    """Both streams cut in the middle and gone on with; then whole passes in turn."""
    if len(sys.argv) > 1:
        words = [int(word) if word.lstrip("-").isdigit() else word for word in sys.argv[2:]]
        return globals()[sys.argv[1]](*words)  # type: ignore[no-any-return]
    python = measure.peer("live", PEERS)
    with tempfile.TemporaryDirectory() as place:
        top = Path(place)
        some = texts()
        root, lines = top / "project", top / "documents.jsonl"
        root.mkdir()
        bring_in(root, some[:DOCUMENTS], 0)
        lines.write_text("".join(json.dumps({"id": at, "text": text}) + "\n" for at, text in enumerate(some[:DOCUMENTS])))
        own, peer = measure.PYTHON, python
        costs = measure.in_turn(
            {
                "ours": lambda: whole_pass(own, "ours", root, fresh(top), top / "one.txt", 0, -1),
                "datasets": lambda: whole_pass(peer, "theirs", lines, top / "none.json", top / "one.json", -1),
            },
            TIMES,
        )
        folder, seen = fresh(top), top / "seen.txt"
        half = DOCUMENTS * 8 // 10
        call(own, "ours", root, folder, seen, 0, half)
        bring_in(root, some[DOCUMENTS:], DOCUMENTS)  # while nobody follows
        call(own, "ours", root, folder, seen, half, -1)
        call(own, "ours", root, folder, top / "wanted.txt", 0, -1)  # one process, over the same ranges
        ours_told = differences(examples_in(seen), examples_in(top / "wanted.txt")) | {"examples": len(examples_in(seen))}
        call(peer, "theirs", lines, top / "state.json", top / "first.json", DOCUMENTS // 2)
        same = theirs_after(peer, lines, top, DOCUMENTS)
        with open(lines, "a") as file:
            file.writelines(json.dumps({"id": DOCUMENTS + at, "text": text}) + "\n" for at, text in enumerate(some[DOCUMENTS:]))
        grown = theirs_after(peer, lines, top, len(some))
    result = {"ours": ours_told, "datasets": same, "datasets_of_a_file_that_grew": grown}
    measure.write("train_live", {**result, "cpu": costs, "documents": len(some)})


def theirs_after(python: str, lines: Path, top: Path, num: int) -> dict[str, int]:
    """What the peer read before and after it was gone on with, of so many documents."""
    call(python, "theirs", lines, top / "state.json", top / "rest.json", -1)
    ids = [each for name in ("first.json", "rest.json") for each in json.loads((top / name).read_text())]
    return differences(ids, list(range(num))) | {"documents": len(ids)}


def whole_pass(python: str, *words: Any) -> dict[str, float]:
    """CPU seconds a MB of text of one pass."""
    Path(str(words[3])).unlink(missing_ok=True)
    told = call(python, *words)
    return {"cpu_s_per_mb": told["cpu_s"] / told["bytes"] * 1e6}


def fresh(top: Path) -> Path:
    """A folder of a run that has read nothing."""
    return Path(tempfile.mkdtemp(dir=top))


if __name__ == "__main__":
    main()
