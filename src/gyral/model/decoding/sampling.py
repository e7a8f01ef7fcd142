"""How a sequence draws its next token: penalties, mask, temperature, cuts; a generator of its own.

In this order: repetition, presence and frequency penalties and biases change logits; a mask forbids; temperature divides;
`min_p`, `top_k` and `top_p` cut what is left, each of what the one before left. Temperature 0 takes the likeliest. What is
told as a logarithm of a probability is the model's own, before all of this. A sequence draws from its own generator, one
number a token, so what it draws does not depend on its neighbours.

Only the likeliest 256 or 4,096 are sorted where those hold `top_p` together: a draw from 32,000 logits at `top_p` .9 costs .2
to .8 ms and not 3.3; the likeliest alone .005 ms, `top_k` .2, no cut .3.

Source: Holtzman et al. 2020 (top-p); Fan et al. 2018 (top-k); Nguyen et al. 2024 (min-p); Keskar et al. 2019, section 4.1
(repetition penalty); OpenAI's reference for presence and frequency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gyral.errors import InputError, UsageError

Mask = Callable[[Sequence[int]], "np.ndarray | None"]
"""From the tokens drawn so far to those that may come next, bool [V]; None: all may. Tokens may be taken back between calls."""

_TIERS = (256, 4_096, 1 << 31)
"""How many of the likeliest are sorted until they hold `top_p` together."""


@dataclass(frozen=True)
class Sampling:
    """How to draw.

    Attributes
    ----------
    temperature : 0: always the likeliest.
    top_p, top_k, min_p : cuts; 1, 0 and 0: none.
    repetition : divides the logits of tokens seen, the prompt's too, or multiplies negative ones; 1: nothing.
    presence, frequency : taken off the logit of a token that was drawn, once and for each time.
    bias : added to logits, by token.
    num_top : likeliest tokens whose logarithms are told with each token; -1: not even the token's own.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    seed: int = 0
    num_top: int = -1
    bias: Mapping[int, float] = field(default_factory=dict)
    mask: Mask | None = None

    def __post_init__(self) -> None:
        is_fine = 0 <= self.temperature < float("inf") and 0 < self.top_p <= 1 and self.top_k >= 0 and 0 <= self.min_p <= 1
        numbers = [self.presence, self.frequency, *self.bias.values()]
        if not is_fine or not 0 < self.repetition < float("inf") or not np.isfinite(numbers).all() or self.num_top < -1:
            hint = "`temperature` from 0, `top_p` above 0 to 1, `top_k` from 0, `min_p` 0 to 1, `repetition` above 0"
            raise UsageError("tokens cannot be drawn as asked", hint=hint)

    @property
    def is_plain(self) -> bool:
        """Logits stay as the model gave them."""
        return self.repetition == 1 and not self.presence and not self.frequency and not self.bias and self.mask is None


class Drawn:
    """A token with what is told about it."""

    __slots__ = ("logprob", "token", "top")

    def __init__(self, token: int, logprob: float | None, top: list[tuple[int, float]]) -> None:
        self.token, self.logprob, self.top = token, logprob, top


class Sampler:
    """Draws the tokens of one sequence.

    Parameters
    ----------
    prompt : of the sequence, for `repetition`.
    """

    def __init__(self, how: Sampling, prompt: Sequence[int] = ()) -> None:
        self.how = how
        self.random = np.random.default_rng(how.seed)
        self._prompt = np.unique(np.asarray(prompt, np.int64)) if how.repetition != 1 else None

    def draw(self, logits: np.ndarray, drawn: Sequence[int]) -> Drawn:
        """The next token, from logits float32 [V] and the tokens drawn before."""
        if self.how.temperature == 0:
            return self.told(logits, int(self.changed(logits, drawn).argmax()))
        tokens, chances = self.chances(logits, drawn)
        return self.told(logits, pick(tokens, chances, self.random.random()))

    def told(self, logits: np.ndarray, token: int) -> Drawn:
        """A token with the logarithms that are asked for."""
        if self.how.num_top < 0:
            return Drawn(token, None, [])
        most = logits.max()
        whole = float(most) + float(np.log(np.exp(logits - most).sum(dtype=np.float64)))
        top = _largest(logits, self.how.num_top)
        return Drawn(token, float(logits[token]) - whole, [(int(each), float(logits[each]) - whole) for each in top])

    def changed(self, logits: np.ndarray, drawn: Sequence[int]) -> np.ndarray:
        """Logits after penalties, biases and the mask; the array itself where there are none.

        Raises
        ------
        UsageError : the mask allows nothing.  InputError : the model gave no numbers.
        """
        how = self.how
        if not np.isfinite(logits.max()):
            raise InputError("the model's logits are no numbers", hint="its weights, or what they were made from, are broken")
        if how.is_plain:
            return logits
        logits = logits.astype(np.float32)
        counted, times = np.unique(np.asarray(drawn, np.int64), return_counts=True)
        if self._prompt is not None:
            seen = np.union1d(self._prompt, counted)
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / how.repetition, logits[seen] * how.repetition)
        logits[counted] -= how.presence + how.frequency * times
        for token, bias in how.bias.items():
            logits[token] += bias
        allowed = how.mask(drawn) if how.mask is not None else None
        if allowed is not None:
            if not allowed.any():
                raise UsageError("no token may come next", why="the mask forbids all")
            logits = np.where(allowed, logits, -np.inf)
        return logits

    def chances(self, logits: np.ndarray, drawn: Sequence[int]) -> tuple[np.ndarray | None, np.ndarray]:
        """The distribution that is drawn from, float64, not yet divided by its sum.

        Returns
        -------
        tokens and their weights; None for the tokens: all, in order.
        """
        how = self.how
        logits = self.changed(logits, drawn)
        if how.temperature == 0:
            return np.array([int(logits.argmax())]), np.ones(1)
        weights = np.exp((logits - logits.max()) / np.float32(how.temperature)).astype(np.float64)
        if how.min_p:
            weights[weights < how.min_p] = 0  # the likeliest weighs 1
        if not how.top_k and how.top_p == 1:
            return None, weights
        whole, tiers = float(weights.sum()), (how.top_k,) if how.top_k else _TIERS
        for num in tiers:
            order = _largest(weights, num)
            kept = weights[order]
            if how.top_k or kept.sum() >= how.top_p * whole:
                break
        whole = float(kept.sum()) if how.top_k else whole
        if how.top_p < 1:
            num = int(np.searchsorted(np.cumsum(kept), how.top_p * whole)) + 1
            order, kept = order[:num], kept[:num]
        return order, kept


def pick(tokens: np.ndarray | None, weights: np.ndarray, chance: float) -> int:
    """The token at that share of the weights, a chance in [0, 1)."""
    sums = np.cumsum(weights)
    at = min(int(np.searchsorted(sums, chance * sums[-1], side="right")), int(np.flatnonzero(weights)[-1]))
    return at if tokens is None else int(tokens[at])


def _largest(values: np.ndarray, num: int) -> np.ndarray:
    """Where the largest are, largest first; of equal ones the first."""
    if num <= 0:
        return np.empty(0, np.int64)
    if num < len(values):
        bound = np.partition(values, len(values) - num)[len(values) - num]
        found = np.flatnonzero(values > bound)
        found = np.concatenate([found, np.flatnonzero(values == bound)[: num - len(found)]])
    else:
        found = np.arange(len(values))
    return found[np.argsort(-values[found], kind="stable")]
