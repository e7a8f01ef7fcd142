"""Whether a text may wait at all: refused at once, with 429 and a time to come back, rather than after having waited in vain.

What stands before a new text ends at the rate at which answers end: their mean length so far times a step of the batch, over
how many are in it. How long an answer will be nobody knows, its `max_tokens` least of all, so the mean stands for all of them,
and the estimate has to be beyond by half before it counts (`scheduling.admission` says why). Whose turn would come at once is
never refused.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from gyral.serve.openai.wire import Wrong
from gyral.serve.scheduling.admission import SLACK, retry_s
from gyral.serve.scheduling.cost import Curve, TokenCost

if TYPE_CHECKING:
    from gyral.model.decoding.line import Ahead

_FORGET = 0.95
"""Of the mean length, with each answer."""
_PREFILL, _DECODE = Curve(2e-3, 1e-4), Curve(5e-3, 1e-3)
"""Seconds before anything was measured; some passes later they do not matter."""


class Patience:
    """Learns what passes cost, and says who would wait too long.

    Parameters
    ----------
    running, waiting : texts in a batch, and that may wait.
    patience_s : until a first token, at most.
    draw : uniform in [0, 1), spreads those who come back.
    """

    def __init__(
        self, running: int, waiting: int, patience_s: float, tokens: int = 512, draw: Callable[[], float] = random.random
    ) -> None:
        self._running, self._waiting, self._patience_s, self._draw = running, waiting, patience_s, draw
        self.cost = TokenCost(_PREFILL, _DECODE, tokens, running)
        self.mean_tokens = 64.0

    def passed(self, read: int, drawn: int, seconds: float) -> None:
        """A pass was measured: tokens of prompts that it read, and texts that it wrote on."""
        if read:
            self.cost.prefill.observe(read, max(seconds - (self.cost.decode.seconds(drawn) if drawn else 0.0), 0.0))
        elif drawn:
            self.cost.decode.observe(drawn, seconds)

    def ended(self, tokens: int) -> None:
        """An answer is whole."""
        self.mean_tokens = _FORGET * self.mean_tokens + (1 - _FORGET) * tokens

    def wait_s(self, ahead: Ahead) -> float:
        """Expected seconds until its prompt is begun."""
        slots = max(ahead.running, 1) if ahead.waiting else self._running  # who waits though there is room waits for memory
        num = ahead.running + ahead.before + 1 - slots
        if num <= 0:
            return 0.0
        each_s = self.mean_tokens * self.cost.decode.seconds(slots) / slots
        return num * each_s + (ahead.unread / self.cost.prefill.rate() if ahead.unread else 0.0)

    def check(self, ahead: Ahead, prompt: int, deadline_s: float) -> None:
        """Refuse what would wait too long.

        Raises
        ------
        Wrong : with status 429 and `retry-after`.
        """
        wait_s = self.wait_s(ahead)
        if ahead.waiting - max(self._running - ahead.running, 0) >= self._waiting:  # the first of them have their turn at once
            raise self._busy(wait_s, f"{ahead.waiting:,} texts wait")
        first_s, allowed_s = wait_s + self.cost.first_s(prompt), min(deadline_s, self._patience_s)
        if wait_s and first_s > SLACK * allowed_s:
            raise self._busy(wait_s, f"its first token would come in some {first_s:.3g} s, and {allowed_s:.3g} are allowed")

    def _busy(self, wait_s: float, why: str) -> Wrong:
        again = retry_s(wait_s, 1.0, self._draw())
        headers = ((b"retry-after", b"%d" % again),)
        what, hint = "too many texts are being written", f"ask again in {again} s"
        return Wrong(429, what, None, "rate_limit_exceeded", why=why, hint=hint, headers=headers)
