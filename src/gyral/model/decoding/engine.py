"""Who is in the next pass: sequences join and leave between any two of them.

A pass holds one position of every sequence that decodes, and then parts of prompts, oldest first, up to a number of tokens: a
long prompt is read in chunks beside the others, whose next token waits for a chunk and not for the prompt. `tokens_beside` is
that trade: beside a prompt of 2,000 tokens the longest gap was 2,970 ms with the prompt in one pass, 590 with chunks of 256
and 290 with 64, where reading it took 1.2 and 2.0 times as long (110 million parameters in int8, usual gap 50).

When no page is left, beginnings that nobody uses go first, then the youngest sequence gives all its pages back and waits; what
it drew stays drawn, and its tokens are read again later. The oldest never waits, so all end. Nothing else depends on who else
is there: each sequence draws by its own generator from logits that are those it would have alone, but for rounding in the
matrix products (none in int8, where each row has a scale of its own).

Who waits is in the order of `line`. Two versions of a model are two engines; over the same pages and the same tree, too, where
one thread steps both.

Source: Yu et al. 2022 (Orca, iteration-level scheduling); Agrawal et al. 2024 (Sarathi, chunked prefills); Kwon et al. 2023,
section 4.5 (preemption by recomputation).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gyral.errors import GyralError, UsageError
from gyral.model.decoding.forward import Pass, Span
from gyral.model.decoding.holding import Holding
from gyral.model.decoding.line import Ahead, Line
from gyral.model.decoding.pages import Pages
from gyral.model.decoding.prefix import Prefixes
from gyral.model.decoding.sampling import Drawn
from gyral.model.decoding.sequence import Ending, Growing, TokenAsk, Told
from gyral.model.decoding.speculate import Drafter, Guesses, checked


@dataclass(frozen=True)
class Limits:
    """Of a pass.

    Attributes
    ----------
    running : sequences that hold pages.
    tokens : of a pass in which nobody decodes.
    tokens_beside : of prompts in a pass in which somebody does.
    """

    running: int = 64
    tokens: int = 512
    tokens_beside: int = 64


class Counts(NamedTuple):
    """What was done since the start.

    Attributes
    ----------
    prompt, cached : tokens of prompts, and those of them that had been read before.
    read : tokens that passes read beside one of each sequence that decodes: of prompts, and again of those that gave way.
    preempted : times that a sequence gave its pages back before its end.
    guessed, accepted : tokens of the small model, and those of them that the large one let stand.
    """

    passes: int = 0
    prompt: int = 0
    cached: int = 0
    read: int = 0
    drawn: int = 0
    preempted: int = 0
    guessed: int = 0
    accepted: int = 0


class Decoding:
    """The engine of one version of a model; called from one thread.

    Parameters
    ----------
    prefixes : shared beginnings; None: every prompt is read whole.
    version : of the weights.
    drafter : guesses ahead.
    clock : seconds, for deadlines.
    """

    def __init__(
        self,
        forward: Pass,
        pages: Pages,
        prefixes: Prefixes | None = None,
        version: str = "",
        limits: Limits | None = None,
        drafter: Drafter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.version, self.counts = version, Counts()
        self._forward, self._holding = forward, Holding(pages, prefixes)
        self._limits, self._drafter, self._clock = limits or Limits(), drafter, clock
        self._running: list[Growing] = []
        self._waiting = Line()
        self._ended: list[Told] = []

    @property
    def num_running(self) -> int:
        """Sequences that hold pages."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that do not, new ones and those that gave way."""
        return len(self._waiting)

    @property
    def most_tokens(self) -> int:
        """Of a prompt and its answer together, that pages can hold."""
        return self._holding.pages.num * self._holding.pages.size

    def ahead(self, ask: TokenAsk) -> Ahead:
        """What an ask that comes now would have before it."""
        return self._waiting.ahead(ask, self._clock() + ask.deadline_s, self._running)

    def submit(self, ask: TokenAsk) -> None:
        """Let a sequence wait for its turn.

        Raises
        ------
        UsageError : the ask cannot be answered.
        """
        length = self._forward.length
        ask.check(self._forward.shape.vocab)
        most = min(len(ask.prompt) + ask.max_tokens, length)
        if most > self.most_tokens:
            why = f"it may become {most:,} tokens long, and there are pages for {self.most_tokens:,}"
            raise UsageError("the sequence does not fit into memory", why=why, hint="fewer `max_tokens`, or more pages")
        if any(ask.id == each.ask.id for each in [*self._running, *self._waiting]):
            raise UsageError(f"the id {ask.id} is under way already")
        growing = Growing(ask, length, self._clock() + ask.deadline_s, (self.version, ask.space))
        self.counts = self.counts._replace(prompt=self.counts.prompt + len(growing.tokens))
        if ask.max_tokens:
            self._waiting.add(growing)
        else:
            self._ended.append(Told(ask.id, [], "length"))

    def cancel(self, id: int) -> None:
        """End a sequence; its last word comes with the next step. One that is not there is ignored."""
        for growing in [*self._running, *self._waiting]:
            if growing.ask.id == id:
                self._ended.append(self._end(growing, [], "cancelled"))

    def step(self) -> list[Told]:
        """One pass, and what it added to each sequence; empty if there is nothing to do."""
        self._expire()
        told, self._ended = self._ended, []
        plan, guesses = self._plan()
        if not plan:
            return told
        spans: list[Span] = []
        tokens: list[int] = []
        wanted: list[int] = []
        of_row: list[tuple[Growing, slice]] = []
        for growing, num in plan.items():
            guessed = guesses[growing].tokens if growing in guesses else []
            told_tokens = [*growing.tokens[growing.read : growing.read + num], *guessed]
            spans.append(Span(growing.read, len(told_tokens), growing.table))
            if num == growing.left:
                rows = range(len(tokens) + num - 1, len(tokens) + len(told_tokens))
                of_row.append((growing, slice(len(wanted), len(wanted) + len(rows))))
                wanted.extend(rows)
            tokens.extend(told_tokens)
        logits = self._forward(tokens, spans, wanted, self._holding.pages)
        read = sum(num for growing, num in plan.items() if not growing.is_decoding)
        self.counts = self.counts._replace(passes=self.counts.passes + 1, read=self.counts.read + read)
        ending = {growing for growing, _ in of_row}
        for growing, num in plan.items():
            if growing not in ending:
                self._holding.advance(growing, num)
        told.extend(self._grown(growing, logits[rows], guesses.get(growing)) for growing, rows in of_row)
        return told

    def close(self) -> None:
        """End all, and give all pages back."""
        for growing in [*self._running, *self._waiting]:
            self._end(growing, [], "cancelled")
        self._ended.clear()

    def _plan(self) -> tuple[dict[Growing, int], dict[Growing, Guesses]]:
        """Tokens of each sequence that the next pass reads, and what is guessed to come after them."""
        plan: dict[Growing, int] = {}
        decoding = [growing for growing in self._running if growing.is_decoding]
        guesses = self._drafter.guess(decoding) if self._drafter is not None else {}
        for growing in decoding:
            if growing in self._running:
                num = len(guesses[growing].tokens) if growing in guesses else 0
                if self._room(growing, 1 + num, plan):
                    plan[growing] = 1
        budget = self._limits.tokens_beside if plan else self._limits.tokens
        for growing in [each for each in self._running if not each.is_decoding]:
            if budget > 0 and growing in self._running:
                budget -= self._chunk(growing, budget, plan)
        while budget > 0 and self._waiting and len(self._running) < self._limits.running:
            growing = next(iter(self._waiting))
            self._holding.look_up(growing)
            num = min(growing.left, budget)
            if not self._holding.reserve(growing, num):
                self._holding.release(growing)
                break
            self._running.append(self._waiting.pop())
            plan[growing], budget = num, budget - num
        return plan, {growing: each for growing, each in guesses.items() if growing in plan}

    def _chunk(self, growing: Growing, budget: int, plan: dict[Growing, int]) -> int:
        """Put the next part of a prompt into the plan; its tokens."""
        self._holding.look_up(growing)
        num = min(growing.left, budget)
        if not self._room(growing, num, plan):
            return 0
        plan[growing] = num
        return num

    def _room(self, growing: Growing, num: int, plan: dict[Growing, int]) -> bool:
        """Pages for a sequence, if need be those of the youngest; False: it is the youngest itself, and waits."""
        while not self._holding.reserve(growing, num):
            youngest = self._running[-1]
            if youngest is growing:
                return False
            plan.pop(youngest, None)
            self._running.pop()
            self._leave(youngest)
            self._waiting.give_way(youngest)
            self.counts = self.counts._replace(preempted=self.counts.preempted + 1)
        return True

    def _grown(self, growing: Growing, logits: np.ndarray, guesses: Guesses | None) -> Told:
        """Draw, and look whether that was the end."""
        ask, added = growing.ask, list[Drawn]()
        ended: Ending = ""
        first, cached = not growing.drawn, max(growing.cached, 0)
        read = growing.left
        try:
            for drawn in checked(growing, logits, guesses):
                added.append(drawn)
                ended = growing.take(drawn)
                if ended:
                    break
        except GyralError as error:
            return self._end(growing, added, "error", str(error))
        accepted = len(added) - 1
        self._holding.advance(growing, read + accepted)
        num_guessed = len(guesses.tokens) if guesses else 0
        self.counts = self.counts._replace(
            drawn=self.counts.drawn + len(added),
            cached=self.counts.cached + (cached if first else 0),
            guessed=self.counts.guessed + num_guessed,
            accepted=self.counts.accepted + (accepted if num_guessed else 0),
        )
        if ended:
            return self._end(growing, added, ended)._replace(cached=cached if first else 0)
        if len(growing.tokens) > self._forward.length:  # as `generate` does: the second half is read anew
            self._leave(growing)
            growing.tokens = growing.tokens[len(growing.tokens) - self._forward.length // 2 :]
        return Told(ask.id, added, "", cached if first else 0)

    def _end(self, growing: Growing, added: list[Drawn], by: Ending, why: str = "") -> Told:
        if growing in self._running:
            self._running.remove(growing)
        else:
            self._waiting.remove(growing)
        self._leave(growing)
        return Told(growing.ask.id, added, by, 0, why)

    def _leave(self, growing: Growing) -> None:
        self._holding.release(growing)
        if self._drafter is not None:
            self._drafter.forget(growing)

    def _expire(self) -> None:
        now = self._clock()
        for growing in [each for each in [*self._running, *self._waiting] if each.deadline_at < now]:
            self._ended.append(self._end(growing, [], "deadline"))
