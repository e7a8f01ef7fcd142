"""The seam between who carries requests and who computes answers: `Ask` in, `Part` out, one `Engine` that steps.

One seam for one-shot work (recommend, encode: a step is a batch) and continuous work (language: a step is one iteration of
decoding, and an ask gets many parts). This file imports nothing heavy.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol


class Ask(NamedTuple):
    """One request on its way to a worker.

    Attributes
    ----------
    id : of the gateway, unique while the worker lives.
    path : route, e.g. `/v1/completions`.
    body : JSON as the client sent it, already validated by the gateway.
    deadline_s : seconds left when it was sent; inf: none.
    version : model version that must answer, "" for the newest.
    """

    id: int
    path: str
    body: bytes
    deadline_s: float = math.inf
    version: str = ""
    is_stream: bool = False


class Part(NamedTuple):
    """An answer, or one event of a stream.

    Attributes
    ----------
    status : 200, or the error's.
    props : what the log keeps.
    """

    id: int
    status: int
    body: bytes
    is_last: bool = True
    props: dict[str, Any] = {}


class Engine(Protocol):
    """Computes answers with one version of a model; called from one thread."""

    version: str

    def submit(self, ask: Ask) -> None:
        """Take an ask; never blocks, answers only by `step`."""

    def cancel(self, id: int) -> None:
        """Nobody waits for it any more: no part of it follows. Unknown ids are fine."""

    def step(self) -> list[Part]:
        """One batch, or one iteration of decoding; [] if there is nothing to do."""

    def close(self) -> None:
        """Let go of the weights; may be called twice."""
