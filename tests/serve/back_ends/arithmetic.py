"""A back end for tests of workers: it adds, counts, sleeps, and breaks in all the ways that a model can."""

import json
import os
import pathlib
import signal
import time

from gyral.errors import NotFound
from gyral.serve.engine import Part


class Arithmetic:
    """`/add`: n + 1; `/count`: n parts, one a step; `/sleep`: a step of n seconds; `/wait`: never; `/die`; `/raise`."""

    def __init__(self, version, options):
        self.version, self.options = version, options
        self.asks, self.counts, self.waits = [], {}, set()
        self.ballast = bytearray(options.get("ballast", 0))

    def submit(self, ask):
        self.asks.append(ask)

    def cancel(self, id):
        self.asks = [each for each in self.asks if each.id != id]
        self.counts.pop(id, None)
        self.waits.discard(id)
        if self.options.get("cancelled"):
            with open(self.options["cancelled"], "a") as file:
                file.write(f"{id}\n")

    def step(self):
        parts = []
        asks, self.asks = self.asks[:64], self.asks[64:]
        for ask in asks:
            number = json.loads(ask.body).get("n", 0) if ask.path != "/blob" else 0
            if ask.path == "/add":
                answer = json.dumps(
                    {"n": number + 1, "version": self.version, "pid": os.getpid(), "left_s": min(ask.deadline_s, 9e9)}
                )
                parts.append(Part(ask.id, 200, answer.encode(), True, {"kind": "add"}))
            elif ask.path == "/sure":
                time.sleep(self.options.get("sure_s", {}).get(ask.variant, 0.0))
                told = {"by": ask.variant}
                parts.append(Part(ask.id, 200, json.dumps(told).encode(), True, {"confidence": number, "of": "numbers"}))
            elif ask.path == "/blob":
                parts.append(Part(ask.id, 200, ask.body[::-1], True, {}))
            elif ask.path == "/odd":
                parts.append(Part(ask.id, 200, b"{}", True, {"path": pathlib.Path("/"), "large": "x" * number}))
            elif ask.path == "/v1/model":
                routes = {"/add": ['{"n": 1}', True], "/sleep": ['{"n": 1}', False], "/raise": ["", False]}
                told = {"card": {"family": "arithmetic"}, "routes": routes, "recommends": False}
                parts.append(Part(ask.id, 200, json.dumps(told).encode(), True, {}))
            elif ask.path == "/count":
                self.counts[ask.id] = [0, number]
            elif ask.path == "/sleep":
                time.sleep(number)
                parts.append(Part(ask.id, 200, b"{}", True, {}))
            elif ask.path == "/wait":
                self.waits.add(ask.id)
            elif ask.path == "/die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif ask.path == "/raise":
                raise ValueError("an engine with a fault")
            else:
                parts.append(Part(ask.id, 404, b"{}", True, {}))
        for id, count in list(self.counts.items()):
            count[0] += 1
            is_last = count[0] >= count[1]
            if is_last:
                del self.counts[id]
            body = json.dumps({"at": count[0], "version": self.version, "pad": "x" * self.options.get("pad", 0)})
            parts.append(Part(id, 200, body.encode(), is_last, {}))
        if self.counts or self.waits:
            time.sleep(self.options.get("step_s", 0.0005))
        return parts

    def close(self):
        self.ballast = b""


def make(source, version, options):
    """Versions that load, load slowly, cannot be loaded, and take the process along."""
    if version.startswith("missing"):
        raise NotFound(f"there is no `{version}`", where=source, hint="another one")
    if version.startswith("broken"):
        raise ValueError("damaged weights")
    if version.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if version.startswith("slow"):
        time.sleep(options.get("slow_s", 0.3))
    return Arithmetic(version, options)
