"""Text from a decoder: token by token, with the keys and values of all before kept.

The nets know nothing of it: a cache takes the place of each block's `attend`. Prompt and answer together may be longer than the
model's sequences: then the second half of what was seen is read anew and generation goes on from there.

A model over bytes can only give UTF-8: a byte that cannot stand at its place is never drawn, and a letter that the limit cuts
is left out. Of a tokenizer's tokens that hold parts of letters, what is no letter yet at the end is left out.

Measured: 200 bytes from a model of 3.4 million parameters take .7 CPU-seconds with the cache and 2.3 without
(`tests/model/test_generate.py` holds that both give the same).

Source: nucleus sampling is Holtzman et al. 2020, section 3.1; UTF-8's rules are table 3-7 of the Unicode standard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from gyral.model.nets.attention import attended

_MIDDLE = (0x80, 0xBF)
_LEADS: tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...] = (
    (0x00, 0x7F, ()),
    (0xC2, 0xDF, (_MIDDLE,)),
    (0xE0, 0xE0, ((0xA0, 0xBF), _MIDDLE)),
    (0xE1, 0xEC, (_MIDDLE, _MIDDLE)),
    (0xED, 0xED, ((0x80, 0x9F), _MIDDLE)),
    (0xEE, 0xEF, (_MIDDLE, _MIDDLE)),
    (0xF0, 0xF0, ((0x90, 0xBF), _MIDDLE, _MIDDLE)),
    (0xF1, 0xF3, (_MIDDLE, _MIDDLE, _MIDDLE)),
    (0xF4, 0xF4, ((0x80, 0x8F), _MIDDLE, _MIDDLE)),
)
"""First byte from, to, and the ranges of those that follow it."""


class Completion(msgspec.Struct, frozen=True):
    """What was written after a prompt.

    Attributes
    ----------
    tokens : drawn, those that `text` leaves out included.
    logprobs : natural logarithm of each one's probability, before temperature and limits.
    ended_by : the model's end, one of `stop`, or the limit of tokens.
    num_read : tokens of the prompt.
    """

    text: str
    tokens: list[int]
    logprobs: list[float]
    ended_by: Literal["end", "stop", "length"]
    num_read: int


class Cache:
    """Keys and values of one block, [B, K, S, E]."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def attend(self, query_BHTE: Tensor, key_BKTE: Tensor, value_BKTE: Tensor, mask: Tensor | None = None) -> Tensor:
        """The whole past, or, once something is kept, one position more."""
        is_first = self.key is None
        if self.key is not None and self.value is not None:
            key_BKTE, value_BKTE = torch.cat([self.key, key_BKTE], 2), torch.cat([self.value, value_BKTE], 2)
        self.key, self.value = key_BKTE, value_BKTE
        return attended(query_BHTE, key_BKTE, value_BKTE, is_causal=is_first)  # later one query sees all


class Generation:
    """One text being written: what was seen, with keys and values of its own, so that several may be written in turn.

    Parameters
    ----------
    prompt : one token at least.
    length : that the model sees at most.
    turn : held while the model runs, where other threads ask the same model.
    """

    def __init__(
        self, model: nn.Module, prompt: Sequence[int], length: int, is_cached: bool = True, turn: Lock | None = None
    ) -> None:
        self._model, self._length, self._is_cached = model, length, is_cached
        self._parts = [module for module in model.modules() if hasattr(module, "attend")]
        self._seen = list(prompt)[-length:]
        self._turn = turn or Lock()
        self._forget()

    def _forget(self) -> None:
        self._read = 0
        self._caches = [Cache() for _ in self._parts]

    @torch.inference_mode()
    def logits(self) -> np.ndarray:
        """Of what comes next, float64 [V]."""
        if len(self._seen) > self._length or not self._is_cached:
            if len(self._seen) > self._length:
                self._seen = self._seen[len(self._seen) - self._length // 2 :]
            self._forget()
        inputs = torch.tensor([self._seen[self._read :]])
        positions = torch.arange(self._read, len(self._seen))[None]
        self._read = len(self._seen)
        with self._turn:
            try:
                for part, cache in zip(self._parts, self._caches, strict=True):
                    part.__dict__["attend"] = cache.attend
                found: np.ndarray = self._model(inputs, positions)[0, -1].double().numpy()
            finally:
                for part in self._parts:
                    part.__dict__.pop("attend", None)
        return found

    def push(self, token: int) -> None:
        """What came next."""
        self._seen.append(token)


def generate(
    model: nn.Module,
    prompt: Sequence[int],
    length: int,
    draw: Callable[[np.ndarray], int | None],
    max_tokens: int,
    is_cached: bool = True,
    turn: Lock | None = None,
) -> None:
    """Give `draw` the logits [V] of what comes next, and it gives the token, until it gives None; as `Generation` says."""
    text = Generation(model, prompt, length, is_cached, turn)
    for _ in range(max_tokens):
        token = draw(text.logits())
        if token is None:
            return
        text.push(token)


class Sampler:
    """Draws tokens.

    Parameters
    ----------
    temperature : 0: always the likeliest.
    top_p : of the probability, in the likeliest tokens that have it together.
    """

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self.temperature, self.top_p = temperature, top_p
        self._random = np.random.default_rng(seed)

    def __call__(self, logits: np.ndarray, allowed: np.ndarray | None = None) -> tuple[int, float]:
        """A token, and the logarithm of its probability by the model alone."""
        shifted = logits - logits.max()
        logprobs = shifted - np.log(np.exp(shifted).sum())
        chances = logprobs if allowed is None else np.where(allowed, logprobs, -np.inf)
        if self.temperature == 0:
            token = int(chances.argmax())
            return token, float(logprobs[token])
        weights = np.exp((chances - chances.max()) / self.temperature)
        order = np.argsort(-weights, kind="stable")
        sums = np.cumsum(weights[order])
        kept = int(np.searchsorted(sums, self.top_p * sums[-1])) + 1
        at = int(np.searchsorted(sums[:kept], self._random.random() * sums[min(kept, len(sums)) - 1], side="right"))
        token = int(order[min(at, kept - 1, len(order) - 1)])
        return token, float(logprobs[token])


class Utf8:
    """Which bytes may come next, of a text that grows by bytes."""

    def __init__(self) -> None:
        self._open: tuple[tuple[int, int], ...] = ()
        self.text = bytearray()
        self._letter = bytearray()

    def allowed(self, size: int) -> np.ndarray:
        """Tokens that may come next, bool [size]; the end (256) may come between letters."""
        found = np.zeros(size, bool)
        ranges = [self._open[0]] if self._open else [(low, high) for low, high, _ in _LEADS]
        for low, high in ranges:
            found[low : high + 1] = True
        found[256:257] = not self._open
        return found

    def push(self, byte: int) -> None:
        """A byte that was allowed; `text` holds whole letters."""
        self._letter.append(byte)
        self._open = self._open[1:] if self._open else next(rest for low, high, rest in _LEADS if low <= byte <= high)
        if not self._open:
            self.text += self._letter
            self._letter.clear()
