"""`gyral bench serve`: one rate, a pattern, logged traffic, or a ramp that looks for the highest rate that is held.

A ramp doubles the rate until a step is not held, then halves the gap three times (by ratio, so the knee is known to 9 %). Every
step is a run of its own whose requests are all answered before the next begins: a step does not pay for the backlog of another.
"""

from __future__ import annotations

import asyncio
import http.client
import math
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from gyral.bench import arrivals, bodies, cpu, points, replay, silence
from gyral.bench.drive import Drive, OnTick, Target
from gyral.bench.points import OperatingPoint
from gyral.bench.record import Record
from gyral.bench.table import milliseconds
from gyral.bench.traffic import Heads, Traffic, assembled, drawn, zipf
from gyral.config import Config
from gyral.config.bench import Bench
from gyral.errors import NotFound, ServeError, UsageError
from gyral.lake.table import Lake
from gyral.run import Run

SECONDS = 10.0
PROBE_TIMEOUT_S = 60.0
MAX_DOUBLINGS = 20
NUM_HALVINGS = 3
LEAST_DRAIN_S = 2.0

Make = Callable[[float, float, int], Traffic]
"""Rate, seconds, seed → traffic."""


class Asked(NamedTuple):
    """A server that is measured, and how its CPU seconds are read."""

    target: Target
    url: str
    cpu_s: cpu.Meter
    cpu_source: str


def serve(root: Path, config: Config, run: Run) -> dict[str, Any]:
    """Put load on a server and write what it did into the run.

    Raises
    ------
    NotFound : no server is named and none serves the project, or no traffic was logged.
    ServeError : nobody answers, or the server refuses what is asked.
    UsageError : options that do not go together.
    """
    bench = config.bench
    _check(bench)
    asked = _asked(root, bench)
    run.reads("server", asked.url)
    lake = Lake.of(root, config)
    make = _maker(bench, lake, asked)
    first = make(bench.rate, _seconds(bench), bench.seed)
    for note in first.notes:
        run.note(f"bench    {note}")
    _probe(asked.target, first)
    if bench.warmup_s and bench.route != "replay":
        _warm_up(bench, asked, make)
    found = _ramp(bench, asked, make, run) if bench.arrivals == "ramp" else [_step(bench, asked, first, run)]
    shown = _shown(found)
    told: dict[str, Any] = {
        "url": asked.url,
        "route": bench.route,
        "arrivals": "logged" if bench.route == "replay" else bench.arrivals,
    }
    if bench.arrivals == "ramp":
        told |= _knee(found, shown)
    run.summarize(**told, **_figures(shown))
    if not shown.is_valid:
        run.note(f"bench    not valid: {shown.why}")
    steps = {"steps": msgspec.to_builtins(found)} if len(found) > 1 else {}
    return {"run": run.number, **told, **msgspec.to_builtins(shown), **steps}


def _check(bench: Bench) -> None:
    if bench.stream and bench.route in ("recommend", "search", "embed", "replay"):
        raise UsageError(f"`--route {bench.route}` does not stream", hint="`--route chat --stream`")
    if bench.arrivals == "ramp" and bench.route == "replay":
        raise UsageError("logged traffic has its own arrivals", hint="`--speed` makes it faster")
    if bench.route == "bodies" and not bench.path:
        raise UsageError("bodies of a file need a path", hint="`--path /v1/recommend`")


def _seconds(bench: Bench) -> float:
    return bench.seconds or SECONDS


def _asked(root: Path, bench: Bench) -> Asked:
    """The server that is named, or the one that serves the project; of the latter the process is known."""
    here = cpu.server_of(root)
    if not bench.url and here is None:
        hint = "`gyral serve MODEL`, or `gyral bench serve URL`"
        raise NotFound("no server is named, and none serves this project now", hint=hint)
    url = bench.url or (here.summary["url"] if here is not None else "")
    target = Target.of(url)
    own = here.pid if here is not None and cpu.is_same(url, here.summary["url"]) else 0
    read, source = cpu.meter(url, bench.pid or own)
    return Asked(target, url, read, source)


def _maker(bench: Bench, lake: Lake, asked: Asked) -> Make:
    """Makes the traffic of a rate, a number of seconds and a seed."""
    target = asked.target
    headers = {"authorization": f"Bearer {key_of(bench.key_env)}"} if bench.key_env else {}
    heads = Heads(target.authority, headers)
    if bench.route == "replay":
        logged = replay.traffic(bench, lake, heads, target.prefix, np.random.default_rng(bench.seed))
        return lambda *_: logged
    model = bench.model or (_listed(target, headers) if bench.route in bodies.LANGUAGE else "")
    found, told = bodies.pool(bench, lake, model, np.random.default_rng(bench.seed))
    shares = zipf(len(found), bench.zipf)
    path = target.prefix + (bench.path or bodies.PATHS[bench.route])
    pattern = "poisson" if bench.arrivals == "ramp" else bench.arrivals

    def make(rate: float, seconds: float, seed: int) -> Traffic:
        due_s = arrivals.due(pattern, rate, seconds, seed, burst_factor=bench.burst_factor, burst_every_s=bench.burst_every_s)
        rng = np.random.default_rng([seed, 1])
        body = drawn(shares, len(due_s), rng)
        zeros = np.zeros(len(due_s), np.uint32)
        mixes = bench.devices, bench.deadlines
        return assembled(due_s, [path], zeros, found, body, heads, *mixes, rng, bench.stream, (told,))

    return make


def key_of(name: str) -> str:
    """The key in an environment variable.

    Raises
    ------
    UsageError : there is none.
    """
    key = os.environ.get(name, "")
    if not key or any(not 0x21 <= ord(letter) < 0x7F for letter in key):
        raise UsageError(f"the environment variable `{name}` holds no key", hint=f"export {name}=…")
    return key


def _listed(target: Target, headers: dict[str, str]) -> str:
    """The first model that a server lists, as OpenAI's do."""
    kind = http.client.HTTPSConnection if target.is_tls else http.client.HTTPConnection
    connection = kind(target.host, target.port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", f"{target.prefix}/v1/models", headers=headers)
        return str(msgspec.json.decode(connection.getresponse().read(1 << 20))["data"][0]["id"])
    except (OSError, http.client.HTTPException, msgspec.DecodeError, LookupError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ServeError(
            "the server lists no model", where=f"{target.authority}/v1/models", why=why, hint="`--model NAME`"
        ) from None
    finally:
        connection.close()


def _probe(target: Target, traffic: Traffic) -> None:
    """Ask once, so that what no answer can come of is told at once and in the server's words."""
    request = traffic.heads[traffic.head[0]] + traffic.tails[traffic.tail[0]]
    line = request.partition(b" HTTP/")[0].decode("latin-1")
    try:
        with _connected(target) as sock:
            sock.sendall(request)
            response = http.client.HTTPResponse(sock, method="POST")
            response.begin()
            status, body = response.status, response.read(1 << 20)
    except (OSError, http.client.HTTPException, ValueError) as error:
        hint = "is it up? `gyral serve MODEL` says where it answers"
        raise ServeError(f"nobody answers at {target.authority}", why=str(error) or type(error).__name__, hint=hint) from None
    if status >= 300 and status not in (429, 503, 504):
        why = body[:500].decode("utf-8", "replace")
        hint = "`--key-env NAME` sends a key, `--route` asks something else"
        raise ServeError(f"`{line}` was answered {status}", where=target.authority, why=why, hint=hint)


def _connected(target: Target) -> socket.socket:
    plain = socket.create_connection((target.host, target.port), PROBE_TIMEOUT_S)
    return ssl.create_default_context().wrap_socket(plain, server_hostname=target.host) if target.is_tls else plain


def _drive(bench: Bench, asked: Asked, traffic: Traffic, timeout_s: float, on_tick: OnTick | None = None) -> Record:
    from gyral.serve.http1.server import more_files, new_loop

    more_files()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        drive = Drive(
            traffic,
            asked.target,
            connections=bench.connections,
            per_connection=bench.per_connection,
            timeout_s=timeout_s,
            on_tick=on_tick,
        )
        return runner.run(drive.run())


def _warm_up(bench: Bench, asked: Asked, make: Make) -> None:
    """A second of the same load that is not counted: connections of the server's own, caches, clocks."""
    if bench.rate * bench.warmup_s >= 1:
        warm = make(bench.rate, bench.warmup_s, bench.seed + 1_000_003)
        _drive(bench, asked, warm, min(bench.timeout_s, bench.warmup_s + LEAST_DRAIN_S))


def _step(bench: Bench, asked: Asked, traffic: Traffic, run: Run, *, is_ramp: bool = False) -> OperatingPoint:
    """Send one traffic; its point, which is written into the run with what its page draws."""
    lasts = max(float(traffic.due_s[-1]), _seconds(bench) if bench.route != "replay" else 1e-3)
    meter = run.meter("requests", len(traffic))
    timeout_s = min(bench.timeout_s, max(LEAST_DRAIN_S, lasts)) if is_ramp else bench.timeout_s
    load, before = os.getloadavg()[0], asked.cpu_s()
    record = _drive(bench, asked, traffic, timeout_s, lambda done, failed: meter.update(done, failed=failed))
    after = asked.cpu_s()
    meter.update(len(record))
    point = points.operating_point(
        traffic,
        record,
        lasts,
        late_ms=bench.late_ms,
        max_late=bench.max_late,
        load=load,
        cpu_s=after - before if after is not None and before is not None else None,
        cpu_source=asked.cpu_source,
        usd_per_core_hour=bench.usd_per_core_hour,
    )
    taken_ms = 1e3 * points.latencies_s(traffic, record)
    drawn_ms = {"curve": points.curve(taken_ms), "histogram": points.histogram(taken_ms)}
    run.metric("operating_point", **msgspec.to_builtins(point), holds=points.holds(point))
    run.metric("load", **drawn_ms, seconds=points.second_by_second(traffic, record, lasts))
    if not traffic.is_stream and (slept := silence.told(traffic, record)) is not None:
        run.metric("silence", **slept)
    return point


def _ramp(bench: Bench, asked: Asked, make: Make, run: Run) -> list[OperatingPoint]:
    """Steps in the order of their rates."""
    found: list[OperatingPoint] = []
    rate, low, high = bench.rate, 0.0, math.inf
    for number in range(MAX_DOUBLINGS + NUM_HALVINGS):
        point = _step(bench, asked, make(rate, _seconds(bench), bench.seed + number), run, is_ramp=True)
        found.append(point)
        held = points.holds(point) and point.is_valid
        run.note(f"bench    {rate:,.0f}/s: {'held' if held else point.why or 'not held'}; {_line(point)}")
        low, high = (rate, high) if held else (low, rate)
        if not low and number >= 6:
            break
        if high < math.inf and low and high / low < 2 ** (1.01 / 2**NUM_HALVINGS):
            break
        rate = 2 * low if high == math.inf else math.sqrt(low * high) if low else high / 2
    return sorted(found, key=lambda each: each.offered_per_s)


def _shown(found: list[OperatingPoint]) -> OperatingPoint:
    """The point that a run is known by: of a ramp the highest that was held, or the lowest there is."""
    held = [each for each in found if points.holds(each) and each.is_valid]
    return held[-1] if held and len(found) > 1 else found[0]


def _knee(found: list[OperatingPoint], shown: OperatingPoint) -> dict[str, Any]:
    """The highest rate that was held, None when none was; what ended the ramp: server, generator, or its last step."""
    is_held = points.holds(shown) and shown.is_valid
    above = [each for each in found if each.offered_per_s > shown.offered_per_s or not is_held]
    limit = ("server" if above[0].is_valid else "generator") if above else "steps"
    return {"knee_per_s": shown.offered_per_s if is_held else None, "limited_by": limit}


def _figures(point: OperatingPoint) -> dict[str, Any]:
    """What the lists and the facts of a run show."""
    names = ("offered_per_s", "achieved_per_s", "goodput", "num_requests", "num_ok", "usd_per_1000")
    told: dict[str, Any] = {name: getattr(point, name) for name in names if getattr(point, name) is not None}
    if point.cpu_s_per_request is not None:
        told["cpu_us_per_request"] = round(1e6 * point.cpu_s_per_request, 1)
    told |= {name: getattr(point.latency, name) for name in points.QUANTILES}
    return {**told, "is_valid": point.is_valid, **({"why": point.why} if point.why else {})}


def _line(point: OperatingPoint) -> str:
    return (
        f"{point.achieved_per_s:,.0f}/s answered, p99 {milliseconds(point.latency.p99_ms)}, {100 * point.goodput:.2f} % in time"
    )
