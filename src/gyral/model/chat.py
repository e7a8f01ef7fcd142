"""A conversation as a prompt: the template that came with a model, or a plain one.

A template is a program (Jinja) of whoever made the model, so it runs in Jinja's immutable sandbox, in a process of its own
(`gyral.model.template`). What people wrote never becomes a special token: the template is given a mark in place of each text,
and the texts are put in afterwards as plain tokens. Other servers tokenize the finished prompt, and a user who writes
`<|im_end|>` ends their own turn there. The price: a template that looks into a text (to cut it, or to answer some word) sees
only its mark, and a text that begins with a line break is cut into tokens apart from the break that the template has before it.

A model without a template gets `user: …\\n` a message and `assistant:` at the end, and stops before it writes the next `user:`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gyral.errors import InputError
from gyral.files import write_atomic
from gyral.model.template import rendered

CONFIG, TEMPLATE, GENERATION = "tokenizer_config.json", "chat_template.jinja", "generation_config.json"
ROLES = ("system", "developer", "user", "assistant")
_MARK = re.compile("\\ue000(\\d+)\\ue001")


class Message(NamedTuple):
    """Who said what."""

    role: str
    content: str


class Piece(NamedTuple):
    """A part of a prompt; `is_marked` when the template wrote it, and special tokens in it are meant."""

    text: str
    is_marked: bool


class Chat(NamedTuple):
    """How a model is talked to.

    Attributes
    ----------
    template : Jinja; empty: the plain one.
    ends : tokens that end an answer, beside the end of a document.
    specials : names that templates know, `bos_token` and `eos_token`.
    """

    template: str = ""
    ends: tuple[int, ...] = ()
    specials: tuple[tuple[str, str], ...] = ()

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which an answer ends."""
        return () if self.template else ("\nuser:", "\nsystem:")

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        """The prompt of a conversation.

        Raises
        ------
        InputError : the template refuses it.  MissingExtra : `jinja2` is not installed.
        """
        if not self.template:
            said = [part for role, text in messages for part in (Piece(f"{role}: ", True), Piece(text + "\n", False))]
            return [*said, Piece("assistant:", True)]
        marked = [{"role": each.role, "content": f"\ue000{at}\ue001"} for at, each in enumerate(messages)]
        told = rendered(self.template, messages=marked, add_generation_prompt=True, **dict(self.specials))
        found: list[Piece] = []
        for place, text in enumerate(_MARK.split(told)):
            found.append(Piece(messages[int(text)].content, False) if place % 2 else Piece(text, True))
        return [piece for piece in found if piece.text]


PLAIN = Chat()


def tokens_of(pieces: Sequence[Piece], plain: Callable[[str], list[int]], marked: Callable[[str], list[int]]) -> list[int]:
    """Tokens of a prompt, each piece its own way."""
    return [token for piece in pieces for token in (marked if piece.is_marked else plain)(piece.text)]


def chat_of(folder: Path) -> Chat:
    """What a folder says of chats: `tokenizer_config.json`, or `chat_template.jinja` beside it; the plain one without them.

    Tokens that end an answer are those of `generation_config.json`.

    Raises
    ------
    InputError : the file cannot be read.
    """
    try:
        path = folder / CONFIG
        told = msgspec.json.decode(path.read_bytes(), type=_Config) if path.exists() else _Config()
        path = folder / TEMPLATE
        template = path.read_text(encoding="utf-8") if path.exists() else told.template
        path = folder / GENERATION
        ends = msgspec.json.decode(path.read_bytes(), type=_Generation).eos_token_id if path.exists() else None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("the chat template cannot be read", why=str(error), where=str(path)) from None
    specials = (("bos_token", _text(told.bos_token)), ("eos_token", _text(told.eos_token)))
    listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return Chat(template, tuple(listed), specials)


def write(chat: Chat, folder: Path, end: int) -> None:
    """Put a chat beside an exported model, so that other programs write its prompts and end its answers alike.

    Parameters
    ----------
    folder : with a `tokenizer_config.json`.
    end : the token that ends a document.
    """
    if not chat.template:
        return
    write_atomic(folder / TEMPLATE, chat.template)
    told: dict[str, Any] = msgspec.json.decode((folder / CONFIG).read_bytes())
    told |= {name: text for name, text in chat.specials if text}
    write_atomic(folder / CONFIG, msgspec.json.format(msgspec.json.encode(told), indent=1))
    ends = list(dict.fromkeys([*chat.ends, end]))
    write_atomic(folder / GENERATION, msgspec.json.format(msgspec.json.encode({"eos_token_id": ends}), indent=1))


class _Generation(msgspec.Struct):
    eos_token_id: int | list[int] | None = None


class _Named(msgspec.Struct):
    name: str = ""
    template: str = ""


class _Config(msgspec.Struct):
    """What is read of `tokenizer_config.json`: one template or several by name, and tokens as texts or with more about them."""

    chat_template: str | list[_Named] | None = None
    bos_token: str | dict[str, Any] | None = None
    eos_token: str | dict[str, Any] | None = None

    @property
    def template(self) -> str:
        told = self.chat_template
        return next((each.template for each in told if each.name == "default"), "") if isinstance(told, list) else told or ""


def _text(token: str | dict[str, Any] | None) -> str:
    return str(token.get("content", "") if isinstance(token, dict) else token or "")
