"""One answer as it is written: which token comes next, which text is certain, when it ends. No torch, no JSON.

Text leaves as soon as it cannot change: letters of several tokens when they are whole, and what may be the beginning of a stop
text when it turned out to be none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

MAX_OPEN = 8
"""Tokens that a letter may take; what is none by then is shown as it is."""


class Settings(NamedTuple):
    """How an answer is drawn.

    Attributes
    ----------
    logprobs : likeliest tokens told at each place; None: not even the one that was drawn.
    """

    max_tokens: int
    stops: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()
    presence: float = 0.0
    frequency: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None


class Told(NamedTuple):
    """A token that was drawn: its logarithm of probability, and the likeliest ones at its place, best first."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


class Draws(Protocol):
    """`gyral.model.generate.Sampler`."""

    def __call__(self, logits: np.ndarray, allowed: np.ndarray | None = None) -> tuple[int, float]: ...


Mask = Callable[[Sequence[int]], np.ndarray]
"""Tokens drawn so far → those that may come next, bool [V]: `gyral.model.structure.Structure`."""


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
    tokens : drawn so far, the one that ended it included.
    text : certain so far.
    ended_by : None while it goes on; `stop` (the model's end, or a stop text) or `length`.
    told : of each token, where logprobs were asked.
    """

    def __init__(self, settings: Settings, draws: Draws, letters: Letters, masks: Sequence[Mask] = ()) -> None:
        self._settings, self._draws, self._letters, self._masks = settings, draws, letters, list(masks)
        self.tokens: list[int] = []
        self.told: list[Told] = []
        self.text, self.ended_by = "", "length" if settings.max_tokens == 0 else None
        self._held = ""
        self._counts: dict[int, int] = {}
        self._longest = max(map(len, settings.stops), default=0)

    def draw(self, logits: np.ndarray) -> int | None:
        """The next token, None when the answer ends by it.

        Parameters
        ----------
        logits : [V].
        """
        settings = self._settings
        allowed: np.ndarray | None = None
        for each in self._masks:
            allowed = each(self.tokens) if allowed is None else allowed & each(self.tokens)
        token, _ = self._draws(self._penalized(logits), allowed)
        self.tokens.append(token)
        if settings.logprobs is not None:
            self.told.append(_told(logits, token, settings.logprobs))
        if token in settings.ends:
            self._end("stop")
            return None
        if settings.presence or settings.frequency:
            self._counts[token] = self._counts.get(token, 0) + 1
        if self._show(self._letters.push(token)):
            self._end("stop")
        elif len(self.tokens) >= settings.max_tokens:
            self._end("length")
        return token if self.ended_by is None else None

    def _penalized(self, logits: np.ndarray) -> np.ndarray:
        if not self._counts and not self._settings.bias:
            return logits
        found = logits.copy()
        for token, count in self._counts.items():
            found[token] -= self._settings.frequency * count + self._settings.presence
        for token, bias in self._settings.bias:
            if token < len(found):
                found[token] += bias
        return found

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


def _told(logits: np.ndarray, token: int, count: int) -> Told:
    shifted = logits - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    best = np.argpartition(-logprobs, min(count, len(logprobs) - 1))[:count]
    best = best[np.argsort(-logprobs[best], kind="stable")]
    return Told(token, float(logprobs[token]), tuple((int(each), float(logprobs[each])) for each in best))
