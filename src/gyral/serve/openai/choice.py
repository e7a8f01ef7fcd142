"""One answer as it is written: which text is certain, and when it ends. No torch, no JSON.

Text leaves as soon as it cannot change: letters of several tokens when they are whole, and what may be the beginning of a stop
text when it turned out to be none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

MAX_OPEN = 8
"""Tokens that a letter may take; what is none by then is shown as it is."""


class Settings(NamedTuple):
    """When an answer ends.

    Attributes
    ----------
    stops : texts before which it does.  ends : tokens that end it.
    """

    max_tokens: int
    stops: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()


class Told(NamedTuple):
    """A token that was drawn: its logarithm of probability, and the likeliest ones at its place, best first."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


class Letters:
    """The text of tokens that come one by one, as far as its letters are whole.

    Parameters
    ----------
    decode : tokens → text. The last ones are read together with those before, since some tokenizers join them with a space.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._shown: list[int] = []
        self._open: list[int] = []

    def push(self, token: int) -> str:
        """What this token makes certain."""
        self._open.append(token)
        before = self._decode(self._shown) if self._shown else ""
        text = self._decode([*self._shown, *self._open])[len(before) :]
        if text.endswith("\ufffd") and len(self._open) < MAX_OPEN:
            return ""
        self._shown, self._open = self._open, []
        return text


class Choice:
    """One answer.

    Attributes
    ----------
    num : tokens drawn so far, the one that ended it included.
    text : certain so far.
    ended_by : None while it goes on; `stop` (the model's end, or a stop text) or `length`.
    told : of each token, where logprobs were asked.
    """

    def __init__(self, settings: Settings, letters: Letters) -> None:
        self._settings, self._letters = settings, letters
        self.num = 0
        self.told: list[Told] = []
        self.text, self.ended_by = "", "length" if settings.max_tokens == 0 else None
        self._held = ""
        self._longest = max(map(len, settings.stops), default=0)

    def take(self, token: int, logprob: float | None = None, likeliest: Sequence[tuple[int, float]] = ()) -> None:
        """The token that was drawn, unless the answer has ended.

        Parameters
        ----------
        logprob, likeliest : None where no logprobs were asked.
        """
        if self.ended_by is not None:
            return
        self.num += 1
        if logprob is not None:
            self.told.append(Told(token, logprob, tuple(likeliest)))
        if token in self._settings.ends or self._show(self._letters.push(token)):
            self._end("stop")
        elif self.num >= self._settings.max_tokens:
            self._end("length")

    def _show(self, more: str) -> bool:
        """Let out what is certain; whether a stop text ends it."""
        if not self._settings.stops:
            self.text += more
            return False
        held = self._held + more
        found = [at for stop in self._settings.stops if (at := held.find(stop)) >= 0]
        if found:
            self.text, self._held = self.text + held[: min(found)], ""
            return True
        open_at = len(held)
        for at in range(max(len(held) - self._longest + 1, 0), len(held)):
            if any(stop.startswith(held[at:]) for stop in self._settings.stops):
                open_at = at
                break
        self.text, self._held = self.text + held[:open_at], held[open_at:]
        return False

    def _end(self, by: str) -> None:
        """What was held is certain now."""
        self.text, self._held, self.ended_by = self.text + self._held, "", by
