"""Traffic: when each request is due and which bytes it is, drawn before the first one is sent.

A request is two pieces of bytes, a head (line, headers, device, deadline) and a tail (length and body), each kept once and
named by a number, so that a million requests are a few arrays and sending one is a concatenation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gyral.errors import UsageError

NO_DEADLINE = math.inf


class Traffic(NamedTuple):
    """What is sent, request by request.

    `due_s` ascending; `head`, `tail` are places in `heads`, `tails`; `deadline_s` counts from when a request is due, inf: none.
    `notes` say what a reader of the results should know.
    """

    due_s: np.ndarray
    head: np.ndarray
    tail: np.ndarray
    deadline_s: np.ndarray
    heads: list[bytes]
    tails: list[bytes]
    is_stream: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.due_s)

    def body(self, number: int) -> bytes:
        """Body of a request."""
        return self.tails[int(self.tail[number])].partition(b"\r\n\r\n")[2]


class Choice(NamedTuple):
    """Named values and how likely each is."""

    values: Sequence[str]
    shares: np.ndarray

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Places in `values`."""
        return drawn(self.shares, count, rng)


def mix(text: str, option: str) -> Choice:
    """Read `phone:.6,laptop:.4`; a value without a weight has weight 1.

    Raises
    ------
    UsageError : it is no such list.
    """
    values, weights = [], []
    for part in text.split(","):
        value, _, weight = part.strip().partition(":")
        try:
            weighs = float(weight or 1)
        except ValueError:
            weighs = -1.0
        if not value or not 0 < weighs < math.inf:
            hint = "write `phone:.6,laptop:.4`; the weights need not add up to 1"
            raise UsageError(f"`{option} {text}` is no mix", why=f"`{part.strip()}` is not VALUE:WEIGHT", hint=hint)
        values.append(value)
        weights.append(weighs)
    return Choice(values, np.array(weights) / sum(weights))


def seconds_of(text: str, option: str) -> float:
    """Read `50ms`, `1.5s`, or `none` for no deadline.

    Raises
    ------
    UsageError : it is no time.
    """
    if text == "none":
        return NO_DEADLINE
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)(ms|s)", text)
    if match is None or float(match.group(1)) <= 0:
        raise UsageError(f"`{option}`: `{text}` is no time", hint="write `50ms`, `1.5s` or `none`")
    return float(match.group(1)) * (1e-3 if match.group(2) == "ms" else 1.0)


def zipf(count: int, exponent: float) -> np.ndarray:
    """Shares of `count` things whose r-th is asked for in proportion to r to the power of -exponent."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    shares: np.ndarray = weights / weights.sum()
    return shares


def drawn(shares: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` places, each as likely as its share."""
    last = len(shares) - 1
    return np.minimum(np.searchsorted(np.cumsum(shares), rng.random(count), side="right"), last).astype(np.uint32)


class Heads:
    """Heads of one server, one for each path, device and deadline that is asked with.

    Parameters
    ----------
    host : as the `host` header has it.
    headers : sent with every request.
    """

    def __init__(self, host: str, headers: Mapping[str, str]) -> None:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._end = f"host: {host}\r\ncontent-type: application/json\r\n{more}"
        self._places: dict[tuple[str, str, float], int] = {}
        self.bytes: list[bytes] = []

    def place(self, path: str, device: str = "", deadline_s: float = NO_DEADLINE) -> int:
        """Its place in `bytes`."""
        key = (path, device, deadline_s)
        if key not in self._places:
            text = f"POST {path} HTTP/1.1\r\n{self._end}"
            text += f"x-gyral-tier: {device}\r\n" if device else ""
            text += f"x-deadline-ms: {max(round(1e3 * deadline_s), 1)}\r\n" if deadline_s != NO_DEADLINE else ""
            self._places[key] = len(self.bytes)
            self.bytes.append(text.encode())
        return self._places[key]


def tail(body: bytes) -> bytes:
    """The end of a request: the length of its body, and the body."""
    return b"content-length: %d\r\n\r\n" % len(body) + body


def assembled(
    due_s: np.ndarray,
    paths: Sequence[str],
    path: np.ndarray,
    bodies: Sequence[bytes],
    body: np.ndarray,
    heads: Heads,
    devices: str,
    deadlines: str,
    rng: np.random.Generator,
    is_stream: bool = False,
    notes: tuple[str, ...] = (),
) -> Traffic:
    """Put a traffic together: paths and bodies are given, devices and deadlines are drawn from their mixes.

    Raises
    ------
    UsageError : a mix is none.
    """
    count = len(due_s)
    device = mix(devices, "--devices") if devices else Choice([""], np.ones(1))
    limit = mix(deadlines, "--deadlines") if deadlines else Choice(["none"], np.ones(1))
    limits = np.array([seconds_of(each, "--deadlines") for each in limit.values])
    of_device, of_limit = device.draw(count, rng), limit.draw(count, rng)
    places = [heads.place(at, name, float(seconds)) for at in paths for name in device.values for seconds in limits]
    head = (path.astype(np.uint32) * len(device.values) + of_device) * len(limits) + of_limit
    return Traffic(
        np.ascontiguousarray(due_s, np.float64),
        np.array(places, np.uint32)[head],
        body.astype(np.uint32),
        limits[of_limit],
        heads.bytes,
        [tail(each) for each in bodies],
        is_stream,
        notes,
    )
