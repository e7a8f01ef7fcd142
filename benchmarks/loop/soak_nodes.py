"""Workers and nodes of a Ray cluster die under the verbs of a loop; what comes out must be what one machine makes.

Three nodes in namespaces of this machine (`tests/engine/nodes.py`): each round curates pages and trains a small language model
with elastic ranks, and in the midst of each a process of Ray is killed, or a node has its cable pulled and dies, and comes back
later. Tables and weights are compared byte by byte with those that one machine made undisturbed; seconds of a fault are those
by which the command took longer than the quickest undisturbed one here. Then two workers serve that model to one client while
one of them dies: no ask fails, and `seconds` are those of the longest.

    .venv/bin/python benchmarks/loop/soak_nodes.py [--rounds 3] [--seed N]      (root; about two minutes a round)
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "engine"))
from measure import write
from nodes import Nodes, why_not

CONFIG = """
[train]
steps = 100
batch = 4
[lm]
depth = 1
width = 16
heads = 2
length = 16
"""
STEPS, PAGES = 100, 600
STAGES = '["extract", "repair", "digest"]'
SMALL_PARTS = (
    "import sys; from gyral.curate.readers import finding; finding.PART_BYTES, finding._LEAST_BYTES = 1 << 13, 1 << 12;"
    "from gyral.cli import main; sys.argv[0] = 'gyral'; main()"
)
"""`gyral` whose parts are some pages each, or all of it is one."""
ASKED_S = 45.0
ASKER = """
import json, sys, time, urllib.error, urllib.request
body = json.dumps({"model": "pages", "prompt": "Page 7 says", "max_tokens": 8}).encode()
head = {"content-type": "application/json"}
with open(sys.argv[1], "a", buffering=1) as log:
    while True:
        began, retry_s = time.monotonic(), 0
        try:
            asked = urllib.request.Request("http://127.0.0.1:8500/v1/completions", body, head)
            with urllib.request.urlopen(asked, timeout=100) as answer:
                status = answer.status if answer.read() else 0
        except urllib.error.HTTPError as error:
            status, retry_s = error.code, int(error.headers.get("retry-after") or 0)
        except OSError:
            status = 0
        line = {"status": status, "retry_s": retry_s, "seconds": round(time.monotonic() - began, 2)}
        log.write(json.dumps(line) + "\\n")
        time.sleep(0.05)
"""
"""Of one client beside the server, one request after the other."""
MIDST = 16
"""Files that show that parts are being made: there are 30 parts, each of two files, twice."""
CUTS = ("worker", "node")
VERBS = ["curate", "train", "serve"]


class Patient(Nodes):
    """Nodes of a machine that is busy: one that is silent for 20 s is dead, where 4 s would do on a quiet one."""

    def environment(self) -> dict[str, str]:
        """Of the nodes."""
        return {**super().environment(), "RAY_health_check_failure_threshold": "20"}

    def wait(self, num: int, timeout_s: float = 240.0) -> None:
        """Until so many nodes have joined."""
        super().wait(num, timeout_s)


class Project:
    """A project on the disk that all nodes see."""

    def __init__(self, folder: Path, nodes: Nodes, chance: random.Random) -> None:
        self.folder, self.nodes, self._chance = folder, nodes, chance
        self.on, self._turn = f"ray://{nodes.address}", 0

    def command(self, verb: str, root: Path, on: str) -> list[str]:
        """A verb, wherever it runs."""
        if verb == "curate":
            words = ["curate", "pages", "--source", "pages", "--set", f"curate.stages={STAGES}"]
            return [sys.executable, "-c", SMALL_PARTS, *words, "--root", str(root), "--on", on]
        words = ["train", "pages", "--family", "lm", "--parallel", "elastic=2", "--set", "train.elastic.leaves=4"]
        return [sys.executable, "-m", "gyral", *words, "--root", str(root), "--on", on]

    def serve(self, cut: str) -> dict[str, Any]:
        """Two workers on the cluster, asked again and again while one of them dies; how the asks ended."""
        root, log = self.folder / f"far{self._turn}", self.folder / "asked.jsonl"
        log.unlink(missing_ok=True)
        words = ["serve", "pages", "--workers", "2", "--root", str(root), "--on", self.on, "--port", "8500", "--json"]
        server = self.nodes.start([sys.executable, "-m", "gyral", *words], stderr=subprocess.STDOUT)
        asker, note = None, ""
        try:
            assert server.stdout is not None
            until = time.monotonic() + 120
            while b'"url"' not in (line := server.stdout.readline().encode()) and line and time.monotonic() < until:
                pass
            asker = self.nodes.start([sys.executable, "-c", ASKER, str(log)])
            time.sleep(ASKED_S / 4)
            note = self._cut(cut)
            time.sleep(ASKED_S)
        finally:
            for each in (asker, server):
                if each is not None:
                    self.nodes.signal(each, signal.SIGTERM)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        each.communicate(timeout=60)
        asked = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        bad = [each for each in asked if each["status"] != 200 and not (each["status"] in (429, 503) and each["retry_s"])]
        return {
            "verb": "serve", "cut": cut, "note": note, "code": server.returncode, "asked": len(asked), "failed": bad[:5],
            "shed": sum(each["status"] != 200 for each in asked) - len(bad),
            "seconds": max((each["seconds"] for each in asked), default=None),
            "is_right": bool(asked) and not bad and server.returncode == 0,
        }  # fmt: skip

    def root(self, name: str) -> Path:
        """A project folder of this name."""
        found = self.folder / name
        found.mkdir(exist_ok=True)
        (found / "gyral.toml").write_text(CONFIG)
        return found

    def alone(self, verb: str, root: Path) -> None:
        """On one machine, as an oracle."""
        done = subprocess.run(self.command(verb, root, "local"), cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{verb} failed on one machine: {done.stderr[-2_000:]}")

    def one(self, verb: str, cut: str) -> dict[str, Any]:
        """A verb on the cluster, with a death in its midst; what happened."""
        began = time.monotonic()
        self._turn += verb == "curate"  # what was curated once is not done again in the same folder
        root = self.root(f"far{self._turn}")
        process = self.nodes.start(self.command(verb, root, self.on))
        note = ""
        try:
            if cut:
                self._wait_for_midst(verb, root, process)
                note = self._cut(cut)
            _, told = process.communicate(timeout=280)
        except subprocess.TimeoutExpired:
            told = "it did not end"
            self.nodes.signal(process, signal.SIGKILL)
            process.communicate()
        seconds = time.monotonic() - began
        made = sorted((root / ("datasets" if verb == "curate" else "models")).glob("pages@*"), key=_number)
        return {
            "verb": verb, "cut": cut, "note": note, "code": process.returncode, "seconds": round(seconds, 2),
            "digest": digest(made[-1], verb) if made and not process.returncode else "",
            "told": told[-1_500:] if process.returncode else "",
        }  # fmt: skip

    def _wait_for_midst(self, verb: str, root: Path, process: subprocess.Popen[str]) -> None:
        """Until it has begun in earnest: parts are there, or steps."""
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if verb == "curate":
                if len(list(root.rglob("*.parquet"))) > MIDST:
                    return
            else:
                with contextlib.suppress(OSError, ValueError):
                    run = max((root / "runs").iterdir(), key=lambda each: int(each.name))
                    if (run / "ledger.jsonl").read_bytes().count(b"\n") > STEPS // 8:
                        return
            time.sleep(0.02)

    def _cut(self, cut: str) -> str:
        places = {number: busy(self.nodes.pids(number)) for number in (1, 2)}
        number = max(places, key=lambda each: len(places[each]))
        if cut == "worker":
            if not places[number]:
                return "nobody worked there"
            pid = self._chance.choice(places[number])
            os.kill(pid, signal.SIGKILL)
            return f"a process of node {number}"
        self.nodes.kill(number, unplug=True)
        time.sleep(self._chance.uniform(0.5, 5))
        self.nodes.add(number, number)
        return f"node {number} with {len(places[number])} of its processes at work"


def busy(pids: list[int]) -> list[int]:
    """Those of Ray's workers, ranks, and workers of a server, among processes; a node ends with any of its agents."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            is_ours = b"gyral.train.rank" in command or b"gyral.serve." in command
            if is_ours or (b"ray::" in command and b"Agent" not in command):  # between two tasks it is called idle
                found.append(pid)
    return found


def digest(folder: Path, verb: str) -> str:
    """Of the tables of a dataset, or the weights of a model."""
    told = hashlib.sha256()
    for path in sorted(folder.rglob("*.parquet" if verb == "curate" else "weights*")):
        told.update(path.name.encode() + path.read_bytes())
    return told.hexdigest()[:16]


def _number(path: Path) -> int:
    return int(path.name.rpartition("@")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", nargs="*", choices=VERBS, default=VERBS)
    options = parser.parse_args()
    if why := why_not():
        raise SystemExit(f"no nodes: {why}")
    loads, chance, rows = [os.getloadavg()[0]], random.Random(options.seed), []
    with tempfile.TemporaryDirectory(prefix="gyral-nodes-") as name:
        folder = Path(name)
        (folder / "pages").mkdir()
        for number in range(PAGES):
            lines = [f"Page {number} says {number * line % 11} words of {line} about the same window." for line in range(8)]
            (folder / "pages" / f"p{number}.txt").write_text("\n".join(lines))
        with contextlib.closing(Patient(folder, [1, 1, 2])) as nodes:
            project, right = Project(folder, nodes, chance), {}
            for verb, kind in (("curate", "datasets"), ("train", "models")):
                near = project.root("near")
                project.alone(verb, near)
                right[verb] = digest(next((near / kind).glob("pages@*")), verb)
            for turn in range(options.rounds + 1):
                for verb in VERBS[:2]:
                    if turn and verb not in options.verbs:
                        continue
                    cuts = chance.sample(CUTS, len(CUTS)) if turn else [""]
                    for cut in cuts:
                        row = project.one(verb, cut)
                        row["is_right"] = row.pop("digest") == right[verb]
                        rows.append(row)
                        print(f"soak     {row}", file=sys.stderr, flush=True)
                        nodes.wait(3)
                for cut in CUTS if turn and "serve" in options.verbs else ():
                    rows.append(project.serve(cut))
                    print(f"soak     {rows[-1]}", file=sys.stderr, flush=True)
                    nodes.wait(3)
    calm = {verb: min(row["seconds"] for row in rows if row["verb"] == verb and not row["cut"]) for verb in right}
    for row in rows:
        if row["verb"] in calm:
            row["longer_s"] = round(row["seconds"] - calm[row["verb"]], 2)
    bad = [row for row in rows if row["code"] or not row["is_right"]]
    result = {"seed": options.seed, "undisturbed_s": calm, "runs": rows, "violations": bad}
    write("loop_soak_nodes", result | {"load_average": [*loads, os.getloadavg()[0]]})
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
