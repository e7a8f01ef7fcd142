"""What the language engine is asked, what it tells, and one sequence on its way through it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from gyral.errors import UsageError
from gyral.model.decoding.prefix import Node
from gyral.model.decoding.sampling import Drawn, Sampler, Sampling

Ending = Literal["", "end", "stop", "length", "cancelled", "deadline", "error"]


@dataclass(frozen=True)
class TokenAsk:
    """A prompt to go on from.

    Attributes
    ----------
    id : of the asker, unique while it is under way.
    prompt : one token at least.
    stop : tokens that end the answer; they are told as its last one.
    end : tokens that end it likewise, as the model's own end.
    deadline_s : from now; what is not done by then ends with `deadline`.
    space : who may share computed beginnings: only asks of the same space do.
    priority : 0 has its turn first; of equal ones the earlier deadline.
    """

    id: int
    prompt: Sequence[int]
    max_tokens: int
    how: Sampling = field(default_factory=Sampling)
    stop: frozenset[int] = frozenset()
    end: frozenset[int] = frozenset()
    deadline_s: float = float("inf")
    space: str = ""
    priority: int = 1

    def check(self, vocab: int) -> None:
        """Refuse what no model with so many tokens can answer.

        Raises
        ------
        UsageError : the ask cannot be answered.
        """
        if not self.prompt or min(self.prompt) < 0 or max(self.prompt) >= vocab:
            raise UsageError("the prompt cannot be read", hint=f"one token at least, each from 0 to {vocab - 1:,}")
        if self.max_tokens < 0:
            raise UsageError(f"`max_tokens` is {self.max_tokens}", hint="0 or more")
        if any(not 0 <= token < vocab for token in self.how.bias):
            raise UsageError("a bias is for a token that is not there", hint=f"tokens are 0 to {vocab - 1:,}")


class Told(NamedTuple):
    """New tokens of one sequence.

    Attributes
    ----------
    drawn : in order, each with the logarithms that were asked for.
    ended_by : empty while it goes on.
    cached : tokens of the prompt whose keys and values were there already; told with the first.
    why : of an `error`.
    """

    id: int
    drawn: list[Drawn]
    ended_by: Ending
    cached: int = 0
    why: str = ""


class Growing:
    """One sequence: its tokens, and the pages of those that were read.

    Attributes
    ----------
    tokens : that the model sees: of a text longer than its length the second half, and what was drawn since.
    drawn : all tokens of the answer.
    read : tokens whose keys and values are in the pages of `table`.
    node, shared : where it stands in the tree of beginnings, and how many of its pages are in it.
    cached : tokens of the prompt that had been read before it came; -1: not looked up yet.
    may_copy : a page that agrees in part may be copied for it.
    """

    def __init__(self, ask: TokenAsk, length: int, deadline_at: float, root: Hashable) -> None:
        self.ask, self.length, self.deadline_at, self.root = ask, length, deadline_at, root
        self.tokens = list(ask.prompt)[-length:]
        self.drawn: list[int] = []
        self.sampler = Sampler(ask.how, ask.prompt)
        self.read = 0
        self.table: list[int] = []
        self.node: Node | None = None
        self.shared = 0
        self.cached = -1
        self.may_copy = True

    @property
    def left(self) -> int:
        """Tokens whose keys and values are not there yet; 1 after a token was drawn: it decodes."""
        return len(self.tokens) - self.read

    @property
    def is_decoding(self) -> bool:
        """The next pass gives a token, from one position."""
        return self.left == 1 and self.read > 0

    def take(self, drawn: Drawn) -> Ending:
        """It has grown by a token; whether that was the last."""
        self.drawn.append(drawn.token)
        self.tokens.append(drawn.token)
        if drawn.token in self.ask.end:
            return "end"
        if drawn.token in self.ask.stop:
            return "stop"
        return "length" if len(self.drawn) >= self.ask.max_tokens else ""
