"""What gateway and worker say to each other, and how many messages travel as one frame of a `Link`.

A frame's head is one msgpack array of messages, which is decoded in C; bodies up to `INLINE_BYTES` lie in it, larger ones
follow the head as they are, without a copy on the sending side, and are received into memory of their own. Everything that is
said within one turn of a loop goes as one frame: 64 asks cost the system calls of one.

Trust: a link's other side has proved to know the secret (`engine.listening`) or inherited the socket; sizes are bounded all
the same, so that a bug is an error and not a machine out of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gyral.engine.links import MAX_HEAD_BYTES, Link, LinkLost
from gyral.errors import ServeError

INLINE_BYTES = 1 << 16
HEAD_BYTES = 1 << 18
"""A frame is closed beyond this; a single message more of up to `INLINE_BYTES` stays below what a link takes."""
MAX_BODY_BYTES = 1 << 28
"""Of one frame."""


class Message(msgspec.Struct, array_like=True, tag_field="t", gc=False):
    """Base of what is said."""


class Asked(Message, tag=0):
    """`Ask`; `size` bytes of body follow the head where it is not in it."""

    id: int
    path: str
    body: bytes
    deadline_s: float | None = None
    version: str = ""
    is_stream: bool = False
    size: int = 0


class Cancel(Message, tag=1):
    """Nobody waits for these any more."""

    ids: list[int]


class Ping(Message, tag=2):
    """Are you there?"""

    number: int


class Load(Message, tag=3):
    """Have this version ready, in the background."""

    version: str


class Use(Message, tag=4):
    """Whatever is asked after this, and names no version, is for this one."""

    version: str


class Forget(Message, tag=5):
    """A version that nobody will ask for; it ends once its asks are answered."""

    version: str


class Drain(Message, tag=6):
    """Nothing will be asked after this: answer what was, then end."""


ToWorker = Asked | Cancel | Ping | Load | Use | Forget | Drain


class Answered(Message, tag=0):
    """`Part`; `size` as in `Asked`."""

    id: int
    status: int
    body: bytes
    is_last: bool
    version: str
    props: dict[str, Any] = {}
    size: int = 0


class Pong(Message, tag=1):
    """I am, and step."""

    number: int
    resident_bytes: int = 0


class Loaded(Message, tag=2):
    """A version is warm; after how long."""

    version: str
    seconds: float
    resident_bytes: int


class Broken(Message, tag=3):
    """A version cannot be loaded; the others go on."""

    version: str
    what: str
    where: str = ""
    why: str = ""
    hint: str = ""


class Leaving(Message, tag=4):
    """Somebody asked me to end: ask nothing more, and say `Drain`."""


FromWorker = Answered | Pong | Loaded | Broken | Leaving

_encoder = msgspec.msgpack.Encoder(enc_hook=str)


class Talk:
    """One side of a link: says `Message`s, hears those of the other side.

    Parameters
    ----------
    hears : type of what comes: `list[ToWorker]` or `list[FromWorker]`.

    Attributes
    ----------
    waiting_bytes : said and not yet taken by the system, about; whoever says more than fits waits for it to fall.
    """

    def __init__(self, link: Link, hears: Any, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.link = link
        self._decoder = msgspec.msgpack.Decoder(hears)
        self._max_body_bytes = max_body_bytes
        self._said: list[Message] = []
        self._bodies: list[bytes] = []
        self._said_bytes = 0
        self._heard: list[Any] = []
        self._body: bytearray | None = None

    @property
    def waiting_bytes(self) -> int:
        """In line here and in the link."""
        return self._said_bytes + self.link.waiting_bytes

    def say(self, message: Message) -> None:
        """Put a message in line; `flush` sends."""
        size = 32
        if isinstance(message, Asked | Answered):
            size += len(message.body)
            if len(message.body) > INLINE_BYTES:
                self._bodies.append(message.body)
                message.size, message.body = len(message.body), b""
        self._said.append(message)
        self._said_bytes += size
        if self._said_bytes > HEAD_BYTES:
            self._close()

    def flush(self) -> bool:
        """Send what the system takes now; whether all is gone.

        Raises
        ------
        LinkLost : the other side has ended.
        """
        if self._said:
            self._close()
        self.link.write()
        return not self.link.is_sending

    def hear(self) -> Sequence[Any]:
        """What has come, [] if nothing whole has; never blocks.

        Raises
        ------
        LinkLost : the other side has ended, or said what cannot be.
        """
        if self.link.read(self._room) is None:
            return ()
        heard, self._heard = self._heard, []
        if self._body is not None:
            body, at, self._body = memoryview(self._body), 0, None
            for each in heard:
                if isinstance(each, Asked | Answered) and each.size:
                    each.body = bytes(body[at : at + each.size])
                    at += each.size
        return heard

    def _close(self) -> None:
        """Make a frame of what was said."""
        said, bodies = self._said, self._bodies
        self._said, self._bodies, self._said_bytes = [], [], 0
        self._queue(said, bodies)

    def _queue(self, said: list[Message], bodies: list[bytes]) -> None:
        try:
            head = _encoder.encode(said)
        except Exception:  # an engine's props of a kind that cannot travel, found one by one
            head = b""
        if head and len(head) <= MAX_HEAD_BYTES:
            self.link.queue(head, *bodies)
        elif len(said) > 1:
            half = len(said) // 2
            first = sum(1 for each in said[:half] if isinstance(each, Asked | Answered) and each.size)
            self._queue(said[:half], bodies[:first])
            self._queue(said[half:], bodies[first:])
        elif isinstance(said[0], Answered) and said[0].props:
            said[0].props = {"lost": "props that are too large or of a kind that cannot travel"}
            self._queue(said, bodies)
        else:
            raise ServeError("a message is too large to travel", why=f"more than {MAX_HEAD_BYTES:,} bytes of names")

    def _room(self, head: bytes, size: int) -> Sequence[Any]:
        try:
            self._heard = self._decoder.decode(head)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._lost(f"it said what cannot be: {error}") from None
        expected = 0
        for each in self._heard:
            if isinstance(each, Asked | Answered) and each.size:
                if each.size < 0:
                    raise self._lost(f"a body of {each.size:,} bytes")
                expected += each.size
        if size != expected or size > self._max_body_bytes:
            limit = f"{expected:,} are expected, and at most {self._max_body_bytes:,} taken"
            raise self._lost(f"bodies of {size:,} bytes where {limit}")
        if not size:
            return ()
        self._body = bytearray(size)
        return (self._body,)

    def _lost(self, why: str) -> LinkLost:
        return LinkLost(f"the link to {self.link.peer} is lost", [self.link.peer], why=why)
