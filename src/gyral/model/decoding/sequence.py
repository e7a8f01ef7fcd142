"""What the language engine is asked, what it tells, and one sequence on its way through it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

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
    """

    id: int
    prompt: Sequence[int]
    max_tokens: int
    how: Sampling = field(default_factory=Sampling)
    stop: frozenset[int] = frozenset()
    end: frozenset[int] = frozenset()
    deadline_s: float = float("inf")
    space: str = ""


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
