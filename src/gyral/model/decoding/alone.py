"""Sequences one by one: the engine of nets that know no pages, such as those of the GPT-2 layout.

Each step runs the net once for every sequence, as `generate` does, so eight at once take eight times as long a token as one.
It is asked like `Decoding`, and tells the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

import numpy as np
from torch import nn

from gyral.errors import GyralError, UsageError
from gyral.model.decoding.engine import Counts
from gyral.model.decoding.line import Ahead, Line
from gyral.model.decoding.sequence import Ending, Growing, TokenAsk, Told
from gyral.model.generate import Generation


class Alone:
    """The engine of one version of a model; called from one thread.

    Parameters
    ----------
    length : that the model sees at most.
    running : sequences in turn; more wait.
    turn : held while the model runs, where other threads ask it.
    """

    def __init__(
        self, model: nn.Module, length: int, vocab: int, running: int = 16, turn: Lock | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.counts = Counts()
        self._model, self._length, self._vocab, self._most = model, length, vocab, running
        self._turn, self._clock = turn, clock
        self._running: dict[Growing, Generation] = {}
        self._waiting = Line()
        self._ended: list[Told] = []

    @property
    def num_running(self) -> int:
        """Sequences that have begun."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that have not."""
        return len(self._waiting)

    @property
    def most_tokens(self) -> int:
        """Of a prompt and its answer together, that the model sees."""
        return self._length

    def ahead(self, ask: TokenAsk) -> Ahead:
        """What an ask that comes now would have before it."""
        return self._waiting.ahead(ask, self._clock() + ask.deadline_s, list(self._running))

    def submit(self, ask: TokenAsk) -> None:
        """Let a sequence wait for its turn.

        Raises
        ------
        UsageError : the ask cannot be answered.
        """
        ask.check(self._vocab)
        if any(ask.id == each.ask.id for each in [*self._running, *self._waiting]):
            raise UsageError(f"the id {ask.id} is under way already")
        if ask.max_tokens:
            self._waiting.add(Growing(ask, self._length, self._clock() + ask.deadline_s, ""))
        else:
            self._ended.append(Told(ask.id, [], "length"))
        self.counts = self.counts._replace(prompt=self.counts.prompt + len(ask.prompt))

    def cancel(self, id: int) -> None:
        """End a sequence; its last word comes with the next step. One that is not there is ignored."""
        for growing in [*self._running, *self._waiting]:
            if growing.ask.id == id:
                self._end(growing, "cancelled")

    def step(self) -> list[Told]:
        """A token of each sequence; empty if there is nothing to do."""
        now = self._clock()
        for growing in [each for each in [*self._running, *self._waiting] if each.deadline_at < now]:
            self._end(growing, "deadline")
        told, self._ended = self._ended, []
        while self._waiting and len(self._running) < self._most:
            growing = self._waiting.pop()
            self._running[growing] = Generation(self._model, growing.tokens, self._length, turn=self._turn)
        return told + [self._grown(growing, generation) for growing, generation in list(self._running.items())]

    def close(self) -> None:
        """End all."""
        for growing in [*self._running, *self._waiting]:
            self._end(growing, "cancelled")
        self._ended.clear()

    def _grown(self, growing: Growing, generation: Generation) -> Told:
        read = 0 if growing.drawn else len(growing.tokens)
        try:
            drawn = growing.sampler.draw(generation.logits().astype(np.float32), growing.drawn)
        except GyralError as error:
            del self._running[growing]
            return Told(growing.ask.id, [], "error", 0, str(error))
        ended = growing.take(drawn)
        growing.read = len(growing.tokens) - 1
        generation.push(drawn.token)
        if ended:
            del self._running[growing]
        counts = self.counts
        self.counts = counts._replace(passes=counts.passes + 1, read=counts.read + read, drawn=counts.drawn + 1)
        return Told(growing.ask.id, [drawn], ended)

    def _end(self, growing: Growing, by: Ending) -> None:
        if self._running.pop(growing, None) is None:
            self._waiting.remove(growing)
        self._ended.append(Told(growing.ask.id, [], by))
