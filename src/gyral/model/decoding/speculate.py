"""A small model guesses tokens ahead, the large one reads all guesses in one pass and lets the good ones stand.

Reading five positions costs the large model little more than one where weights are what a pass waits for. A guess x stands
with probability min(1, p(x)/q(x)), p and q being what either model would draw from at that place; the first that does not is
replaced by a draw from max(p − q, 0), so what comes out is distributed as if the large model had drawn alone, whatever the
small one guesses; at temperature 0 it is token for token the same. Penalties, cuts, masks and temperature are part of both p
and q; a mask is asked about tokens that may be taken back. Nothing is guessed after a token that would end the answer.

Which tokens a seed gives differs with guesses and without, and with whether the small model had caught up: the distribution
does not.

The small model keeps keys and values in pages of its own. After a refusal it has read tokens that are not there: it forgets
them by counting back. It catches up on a prompt in chunks; until then there are no guesses.

Source: Leviathan et al. 2023 and Chen et al. 2023 (speculative sampling), algorithm 1 and theorem 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gyral.errors import GyralError, UsageError
from gyral.model.decoding.forward import Forward, Span
from gyral.model.decoding.pages import Pages
from gyral.model.decoding.sampling import Drawn, pick
from gyral.model.decoding.sequence import Growing

CATCH_UP = 128
"""Tokens that the small model reads at most before it guesses."""

Chances = tuple["np.ndarray | None", np.ndarray]
"""Tokens (None: all, in order) and their weights."""


class Guesses(NamedTuple):
    """Of one sequence: tokens, and what each was drawn from."""

    tokens: list[int]
    chances: list[Chances]


class _Kept:
    """What the small model has read of a sequence."""

    def __init__(self) -> None:
        self.table: list[int] = []
        self.tokens: list[int] = []


class Drafter:
    """The small model.

    Parameters
    ----------
    vocab : of the large one; both must have the same tokens.
    num : guesses a pass.

    Raises
    ------
    UsageError : the vocabularies differ.
    """

    def __init__(self, forward: Forward, pages: Pages, vocab: int, num: int = 4) -> None:
        if forward.shape.vocab != vocab:
            why = f"{forward.shape.vocab:,} and {vocab:,} tokens"
            raise UsageError("the small model cannot guess for the large one", why=why, hint="use one with the same tokenizer")
        self._forward, self._pages, self._num = forward, pages, num
        self._kept: dict[Growing, _Kept] = {}

    def guess(self, growing: Sequence[Growing]) -> dict[Growing, Guesses]:
        """Tokens that may come next, for those sequences that it has caught up with."""
        found: dict[Growing, Guesses] = {}
        budget = CATCH_UP
        for each in growing:
            budget -= self._follow(each, budget)
        able = {each: self._able(each) for each in growing}
        for at in range(self._num):
            active = [each for each, most in able.items() if most > at and self._reserve(each, found.get(each))]
            if not active:
                break
            spans, tokens, wanted = [], [], []
            for each in active:
                kept, guessed = self._kept[each], found[each].tokens if each in found else []
                new = (each.tokens + guessed)[len(kept.tokens) :]
                spans.append(Span(len(kept.tokens), len(new), kept.table))
                kept.tokens.extend(new)
                tokens.extend(new)
                wanted.append(len(tokens) - 1)
            for each, logits in zip(active, self._forward(tokens, spans, wanted, self._pages), strict=True):
                guesses = found.get(each) or Guesses([], [])
                try:
                    chances = each.sampler.chances(logits, each.drawn + guesses.tokens)
                except GyralError:  # the large model's own draw says what is wrong, if it comes to that
                    able[each] = 0
                    continue
                token = pick(*chances, each.sampler.random.random())
                guesses.chances.append(chances)
                guesses.tokens.append(token)
                found[each] = guesses
                if token in each.ask.end or token in each.ask.stop:
                    able[each] = 0
        return found

    def forget(self, growing: Growing) -> None:
        """A sequence has ended, gave way or begins anew."""
        kept = self._kept.pop(growing, None)
        for page in kept.table if kept is not None else []:
            self._pages.drop(page)

    def _follow(self, growing: Growing, budget: int) -> int:
        """Count back to what is still true, and read what is missing but for the last token; what it cost."""
        kept = self._kept.setdefault(growing, _Kept())
        agree = min(len(kept.tokens), len(growing.tokens) - 1)
        start = max(0, agree - 2 * self._num - 2)  # guesses alone can be wrong
        while start < agree and kept.tokens[start] == growing.tokens[start]:
            start += 1
        del kept.tokens[start:]
        missing = growing.tokens[start : min(len(growing.tokens) - 1, start + budget, self._forward.length)]
        if len(missing) <= self._num:
            return 0  # read with the first guess
        if not self._pages_for(kept, len(missing)):
            return 0
        self._forward(missing, [Span(start, len(missing), kept.table)], [], self._pages)
        kept.tokens.extend(missing)
        return len(missing)

    def _able(self, growing: Growing) -> int:
        """How many guesses make sense."""
        kept = self._kept.get(growing)
        if kept is None or len(growing.tokens) - len(kept.tokens) > self._num + 1:
            return 0
        room = min(self._forward.length, growing.length) - len(growing.tokens)
        return min(self._num, room, growing.ask.max_tokens - len(growing.drawn) - 1)

    def _reserve(self, growing: Growing, guesses: Guesses | None) -> bool:
        kept = self._kept[growing]
        return self._pages_for(kept, len(growing.tokens) + (len(guesses.tokens) if guesses else 0) - len(kept.tokens))

    def _pages_for(self, kept: _Kept, num: int) -> bool:
        while len(kept.table) * self._pages.size < len(kept.tokens) + num:
            if not self._pages.num_free:
                return False
            kept.table.append(self._pages.take())
        return True


def checked(growing: Growing, logits: np.ndarray, guesses: Guesses | None) -> Iterator[Drawn]:
    """The tokens that come next: guesses that stand, and one of the large model's own.

    Parameters
    ----------
    logits : of the large model at the last token and at each guess, float32 [1 + guesses, V].
    """
    sampler = growing.sampler
    for at, token in enumerate(guesses.tokens if guesses else []):
        own = _dense(sampler.chances(logits[at], growing.drawn), logits.shape[1])
        other = _dense(guesses.chances[at], logits.shape[1])  # type: ignore[union-attr]
        if sampler.random.random() * other[token] >= own[token]:
            rest = np.maximum(own - other, 0)
            rest = rest if rest.any() else own  # both the same but for rounding
            yield sampler.told(logits[at], pick(None, rest, sampler.random.random()))
            return
        yield sampler.told(logits[at], token)
    yield sampler.draw(logits[-1], growing.drawn)


def _dense(chances: Chances, vocab: int) -> np.ndarray:
    """Probabilities of all tokens, float64 [V]."""
    tokens, weights = chances
    whole: np.ndarray = np.zeros(vocab)
    whole[slice(None) if tokens is None else tokens] = weights
    whole /= whole.sum()
    return whole
