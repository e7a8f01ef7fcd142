"""What `gyral bench` sends, and what it calls too late: the section `[bench]`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from gyral.config.sections import Section

Arrivals = Literal["poisson", "constant", "bursts", "day", "ramp"]
Route = Literal["recommend", "chat", "completions", "search", "embed", "bodies", "replay"]


class Bench(Section, frozen=True):
    """Load on a server: when requests are due, what they ask for, and when an answer is good."""

    url: Annotated[str, Meta(description="server to ask; empty: the one that serves this project now")] = ""
    route: Annotated[Route, Meta(description="what is asked for; `bodies` are lines of a file, `replay` is logged traffic")] = (
        "recommend"
    )
    path: Annotated[str, Meta(description="path that is asked; empty: the route's own")] = ""
    bodies: Annotated[str, Meta(description="file of JSON lines, a body each")] = ""
    speed: Annotated[float, Meta(gt=0, description="of `replay`: event time over time")] = 1.0
    rate: Annotated[float, Meta(gt=0, le=1e6, description="requests a second, on average; of `ramp`: the first step's")] = 100.0
    seconds: Annotated[
        float, Meta(ge=0, le=86_400, description="that requests are due, of `ramp` each step; 0: 10, or all that is logged")
    ] = 0.0
    warmup_s: Annotated[float, Meta(ge=0, le=600, description="the same load before, which is not counted")] = 1.0
    arrivals: Annotated[Arrivals, Meta(description="when requests are due; `ramp` raises the rate until it is not held")] = (
        "poisson"
    )
    burst_factor: Annotated[float, Meta(ge=1, le=10, description="rate in a burst over the mean; a tenth of the time")] = 5.0
    burst_every_s: Annotated[float, Meta(gt=0, description="from one burst to the next")] = 2.0
    users: Annotated[int, Meta(ge=1, le=1_000_000, description="subjects, or prompts, that are asked for")] = 10_000
    zipf: Annotated[float, Meta(ge=0, le=4, description="exponent of how unequally often; 0: all alike")] = 1.0
    k: Annotated[int, Meta(ge=1, le=10_000, description="items of an answer")] = 10
    model: Annotated[str, Meta(description="model that requests name; empty: the first that a language server lists")] = ""
    prompt_words: Annotated[int, Meta(ge=1, le=100_000, description="median length of a prompt; log-normal")] = 32
    max_tokens: Annotated[int, Meta(ge=1, le=65_536, description="of an answer")] = 32
    stream: Annotated[bool, Meta(description="language routes answer as server-sent events, and tokens are timed")] = False
    devices: Annotated[str, Meta(description="mix of `x-gyral-tier`, as in `phone:.6,laptop:.4`; empty: none")] = ""
    deadlines: Annotated[str, Meta(description="mix of `x-deadline-ms`, as in `50ms:.8,500ms:.2`; empty: none")] = ""
    connections: Annotated[int, Meta(ge=1, le=50_000, description="open at once at most; made when no idle one is left")] = (
        1_000
    )
    per_connection: Annotated[int, Meta(ge=0, description="requests after which a connection is made anew; 0: never")] = 0
    timeout_s: Annotated[float, Meta(gt=0, le=3_600, description="from the moment a request is due")] = 30.0
    key_env: Annotated[str, Meta(description="environment variable that holds the server's key")] = ""
    pid: Annotated[int, Meta(ge=0, description="server's process, for its CPU time; 0: the project's, or `/metrics`")] = 0
    usd_per_core_hour: Annotated[float, Meta(ge=0, description="price of a core, for the cost of 1,000 answers; 0: none")] = 0.0
    late_ms: Annotated[float, Meta(gt=0, description="a request handled later than this after it was due was late")] = 10.0
    max_late: Annotated[float, Meta(ge=0, le=1, description="share of late requests above which a run is not valid")] = 0.01
    seed: Annotated[int, Meta(ge=0, description="of arrivals and of what is asked for")] = 0
