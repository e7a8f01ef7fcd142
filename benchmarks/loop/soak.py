"""A soak of the whole loop: replayed traffic while processes die, stop, run out of disk, and models are swapped.

Traffic is the bundled purchases by their visits, again and again, each event with a number of its own: devices that send to two
collectors until they are told that it is stored, and clients that ask. After a while without harm, a fault; when all is well
again, the next. What was promised is counted from the clients' own ledger (`soak_ledger`), the lakes, the learned tables and
/proc, and every violation names the fault before it. The run is a run: `gyral dash --root FOLDER`, page `/faults`.

Beside the faults a model is swapped in and rolled back each minute. `--log kafka` has the logs on a broker, which dies too.
In the last third of a long one nobody is killed, so that memory of processes that are old can be told.
Clocks jump where there is a C compiler, and a disk fills only where a small one can be mounted (root). Not here: Ray, whose
nodes die in `soak_nodes.py`.

    .venv/bin/python benchmarks/loop/soak.py [--minutes 60] [--seed N] [--folder F] [--rate 8] [--only KIND …] [--log kafka]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import soak_broker
from measure import ROOT, machine, write
from soak_faults import ROLES, Faults, recovery
from soak_judged import judged, memory_of
from soak_ledger import Ledger
from soak_system import System

from gyral.errors import GyralError, ServeError
from gyral.progress import Screen
from gyral.run import Run
from gyral.serve.client import Connection

CALM_S, PAUSE_S, WARM_S = 3.0, 1.5, 5.0
ASKERS, SENDERS = 4, 4
DISK_BYTES, DISK_BYTES_A_MINUTE = 600 << 20, 10 << 20
FLUSH_S = 60.0
LEARNS_S = 180.0
FOLD_S = 10.0
OLD_PART, OLD_MINUTES = 0.3, 20.0
"""Of a soak that is at least so long, the last part: nobody is killed, so that memory of old processes can be told."""
SWAP_S = 30.0
"""A model is swapped in, and after as long rolled back."""


def visits() -> list[list[dict[str, Any]]]:
    """Visits of the first days of the shop: purchases that every rule keeps, without their ids."""
    rows = pq.read_table(ROOT / "data" / "online_retail.parquet").sort_by("InvoiceDate").slice(0, 9_000)
    good = pc.and_(pc.is_valid(rows["CustomerID"]), pc.and_(pc.greater(rows["Quantity"], 0), pc.greater(rows["UnitPrice"], 0)))
    rows = rows.filter(pc.and_(good, pc.match_substring_regex(rows["StockCode"].cast(pa.string()), r"^\d{5}[A-Za-z]{0,2}$")))
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        props = {"Quantity": str(row["Quantity"]), "UnitPrice": str(row["UnitPrice"]), "Country": row["Country"]}
        found.setdefault(row["InvoiceNo"], []).append(
            {
                "event_time": row["InvoiceDate"].isoformat() + "Z", "kind": "purchase", "schema_id": "online_retail",
                "subject": str(row["CustomerID"]), "object": row["StockCode"],
                "props": {**props, "Description": row["Description"] or ""},
            }
        )  # fmt: skip
    return list(found.values())


class Traffic:
    """Everybody who comes."""

    def __init__(self, system: System, ledger: Ledger, rate: float) -> None:
        self._system, self._ledger, self._rate = system, ledger, rate
        self._visits = visits()
        self._next = dict.fromkeys(("live", "drained"), 0)
        self._turn = dict.fromkeys(("live", "drained"), 0)
        self.is_over = False

    async def run(self) -> None:
        """Until it is over, and all that was begun is stored."""
        sites = [self._send(site, number) for site in ("live", "drained") for number in range(SENDERS)]
        await asyncio.gather(*sites, *(self._ask(number) for number in range(ASKERS)))

    async def _send(self, site: str, number: int) -> None:
        listener = "gateway" if site == "live" else "collector"
        connection = Connection(self._system.services[listener].url)
        await asyncio.sleep(number / self._rate)
        due = time.monotonic()
        while not self.is_over:
            due = max(due + SENDERS / self._rate, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            visit = self._visits[self._turn[site] % len(self._visits)]
            first = self._next[site]
            self._turn[site] += 1
            self._next[site] = end = first + len(visit)
            batch = [{"event_id": f"{site}-{first + at}", **each} for at, each in enumerate(visit)]
            self._ledger.sent(site, first, end)
            body = json.dumps(batch).encode()
            while True:
                status, retry_s, _ = await self._exchange(
                    connection, f"send {site}", listener, "/v1/events", body, first=first, end=end
                )
                if status == 200:
                    break
                await asyncio.sleep(min(retry_s, 1.0) or 0.2)
        await connection.close()

    async def _ask(self, number: int) -> None:
        connection = Connection(self._system.gateway.url)
        turn = number
        while not self.is_over:
            turn += ASKERS
            subject = self._visits[turn % len(self._visits)][0]["subject"]
            body = json.dumps({"subject": subject, "k": 10}).encode()
            status, retry_s, _ = await self._exchange(connection, "ask", "gateway", "/v1/recommend", body, client=number)
            await asyncio.sleep(ASKERS / self._rate / 2 if status == 200 else min(retry_s, 1.0) or 0.2)
        await connection.close()

    async def _exchange(
        self, connection: Connection, what: str, listener: str, path: str, body: bytes, **more: Any
    ) -> tuple[int, int, Any]:
        since, told = self._ledger.now, None
        try:
            answer = await connection.post(path, body)
            status, retry_s = answer.status, answer.retry_s
            told = answer.json()
        except ServeError as error:
            status, retry_s, more["why"] = 0, 0, error.why
        if what == "ask" and status == 200:
            more["version"] = int(told["model"].rpartition("@")[2])
            more["objects"] = [each["object"] for each in told["items"]]
            self._ledger.version_seen = max(self._ledger.version_seen, more["version"])
        elif status != 200 and told is not None:
            more["why"] = str(told)[:300]
        self._ledger.ended(what, listener, since, status, retry_s, **more)
        return status, retry_s, told


async def watch(system: System, ledger: Ledger, run: Run, samples: list[dict[str, Any]]) -> None:
    """A line a second: rates, latency, and what each role holds."""
    while True:
        await asyncio.sleep(1.0)
        recent, ledger.recent = ledger.recent, []
        asked = [seconds for what, status, seconds in recent if what == "ask" and status == 200]
        roles = {role: memory_of(system.pids(role)) for role in ROLES}
        line = {
            "t": round(ledger.now, 2),
            "answered_per_s": len(asked),
            "stored_per_s": sum(what != "ask" and status == 200 for what, status, _ in recent),
            "not_answered_per_s": sum(status != 200 for _, status, _ in recent),
            "p99_ms": round(1e3 * float(np.quantile(asked, 0.99)), 2) if asked else None,
            "rss_bytes": {role: sum(each["rss_bytes"] for each in found.values()) for role, found in roles.items()},
            "files": {role: sum(each["files"] for each in found.values()) for role, found in roles.items()},
        }
        run.metric("soak", **line)
        samples.append({"t": line["t"], "roles": roles})


async def fold(system: System, run: Run) -> None:
    """Every few seconds."""
    while True:
        await asyncio.sleep(FOLD_S)
        try:
            await asyncio.to_thread(system.fold)
        except (GyralError, OSError) as error:
            run.note(f"soak     the shards' logs were not folded: {error}")


async def swap(system: System, run: Run) -> None:
    """Out and back, each minute."""
    while True:
        for turn in (system.roll_out, system.roll_back):
            await asyncio.sleep(SWAP_S)
            try:
                await asyncio.to_thread(turn)
            except (GyralError, OSError) as error:
                run.note(f"soak     a model was not published: {error}")


async def soak(system: System, ledger: Ledger, run: Run, options: argparse.Namespace) -> tuple[Faults, list[dict[str, Any]]]:
    faults = Faults(system, ledger, options.seed, options.only, run.folder / "faults.jsonl")
    traffic, samples = Traffic(system, ledger, options.rate), []  # type: ignore[var-annotated]
    coming = asyncio.create_task(traffic.run())
    watching = asyncio.create_task(watch(system, ledger, run, samples))
    others = [watching, asyncio.create_task(fold(system, run)), asyncio.create_task(swap(system, run))]
    until = time.monotonic() + 60 * options.minutes
    try:
        learns_by = time.monotonic() + LEARNS_S
        while not list((system.live / "models").glob("soak-frozen@*")) and not coming.done():
            if time.monotonic() > learns_by:
                raise SystemExit(f"nothing was learned in {LEARNS_S:g} s")
            await asyncio.sleep(0.1)
        await asyncio.sleep(WARM_S)
        old_s = 60 * OLD_PART * options.minutes if options.minutes >= OLD_MINUTES else 0.0
        while time.monotonic() < until and not coming.done():
            faults.spares = time.monotonic() > until - old_s
            fault = await faults.one()
            recovered = f"well after {fault.recovered_s:.2f} s" if fault.recovered_s is not None else "NOT WELL"
            run.note(f"soak     {fault.at:7.1f} s {fault.kind} {fault.note}: {recovered}")
            await asyncio.sleep(PAUSE_S)
        await asyncio.sleep(CALM_S)
        traffic.is_over = True
        await asyncio.wait_for(coming, FLUSH_S)
    finally:
        for task in (*others, coming):
            task.cancel()
        await asyncio.gather(*others, coming, return_exceptions=True)
    return faults, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rate", type=float, default=8.0, help="visits a second to each collector, and half the requests")
    parser.add_argument("--only", nargs="*", default=[], help="kinds of faults: kill, 'stop worker', roll, disk, …")
    parser.add_argument("--log", choices=("sqlite", "kafka"), default="sqlite", help="where events are durable")
    options = parser.parse_args()
    if options.log == "kafka" and (why := soak_broker.why_not()):
        raise SystemExit(f"no broker: {why}")
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gyral-soak-")))
        result = one(folder.absolute(), options)
    if not options.folder:
        write("loop_soak" if options.log == "sqlite" else f"loop_soak_{options.log}", result)
    else:
        print(json.dumps(result | {"machine": machine()}))
    sys.exit(bool(result["violations"]))


def one(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One soak in a folder; what was promised and what was counted."""
    loads = [os.getloadavg()[0]]
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        config = System.settings(folder)
        run = stack.enter_context(Run.start(folder, "bench", config, screen=Screen(), seed=options.seed))
        system = System(folder, DISK_BYTES + int(options.minutes * DISK_BYTES_A_MINUTE), options.log == "kafka", run.note)
        stack.callback(system.close)
        run.note("soak     starts the system")
        system.start()
        ledger = Ledger(run.folder / "ledger.jsonl")
        stack.callback(ledger.close)
        faults, samples = asyncio.run(soak(system, ledger, run, options))
        seconds = ledger.now
        run.note("soak     ends the system, and counts")
        ended = system.stop()
        ledger.close()
        promises, violations, told = judged(system, ledger, faults.done, samples, ended)
        result = {
            "seed": options.seed, "log": options.log, "seconds": round(seconds, 1), "faults": len(faults.done),
            "promises": promises, "violations": violations, "recovery": recovery(faults.done), **told,
            "load_average": [*loads, os.getloadavg()[0]],
        }  # fmt: skip
        run.summarize(**result)
        for promise in promises:
            run.note(f"soak     {'ok ' if promise['kept'] else 'BAD'} {promise['promised']}: {promise['counted']}")
    return result


if __name__ == "__main__":
    main()
