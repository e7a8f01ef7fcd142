"""What gateway and worker say to each other, and how many messages travel as one frame of a `Link`.

A frame's head is one msgpack array of messages, which is decoded in C; bodies up to `INLINE_BYTES` lie in it, larger ones
follow the head as they are, without a copy on the sending side, and are received into memory of their own. Everything that is
said within one turn of a loop goes as one frame: 64 asks cost the system calls of one. A `Link` reads a frame in three calls
and asks a fourth time whether there is more; here one call takes all that has come (8 in flight: 27 → 17 µs of CPU an ask).

Tried and left out: bodies in shared memory. There and out again cost 10 against 14 µs of CPU at 64 kB, 22 against 41 at 256 kB,
195 against 284 at 1 MB and 1,533 against 1,316 at 4 MB (medians of 5): less than decoding the picture in it, for memory that
has to be given back when either side dies.

Trust: a link's other side has proved to know the secret (`engine.listening`) or inherited the socket; sizes are bounded all
the same, so that a bug is an error and not a machine out of memory.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gyral.engine.links import ENDED, FRAME, MAX_HEAD_BYTES, Link, LinkLost
from gyral.errors import ServeError

INLINE_BYTES = 1 << 16
HEAD_BYTES = 1 << 18
"""A frame is closed beyond this; a single message more of up to `INLINE_BYTES` stays below what a link takes."""
MAX_BODY_BYTES = 1 << 28
"""Of one frame."""
READ_BYTES = 1 << 17
READS = 16
"""System calls at a time; who has more to read comes again."""


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
    variant: str = ""
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
    """I am; how long I have stepped since I began, and how often."""

    number: int
    resident_bytes: int = 0
    step_s: float = 0.0
    steps: int = 0


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
        self._read = bytearray(READ_BYTES)
        self._start = self._end = 0
        self._large: _Large | None = None

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

    def hear(self) -> list[Any]:
        """What has come, [] if nothing whole has; never blocks.

        Raises
        ------
        LinkLost : the other side has ended, or said what cannot be; what came whole before was returned by the call before.
        """
        heard: list[Any] = []
        for _ in range(READS):
            into = self._free() if self._large is None else self._large.rest
            try:
                num = self.link.socket.recv_into(into)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if heard:
                    break
                raise self._lost(error.strerror or str(error)) from None
            if num == 0:
                if heard:
                    break
                raise self._lost(ENDED)
            self.link.moved += num
            is_all = num < len(into)
            if self._large is None:
                self._end += num
            else:
                self._large.rest = self._large.rest[num:]
                if not len(self._large.rest):
                    heard += self._large.whole()
                    self._large = None
            if self._large is None:
                self._take(heard)
            if is_all:
                break
        return heard

    def _free(self) -> memoryview:
        """Room for what comes: at least for the rest of a frame's head."""
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
        elif start and end == len(self._read):
            self._read[: end - start] = self._read[start:end]
            self._start, self._end = 0, end - start
        if self._end == len(self._read):  # a head longer than the room
            self._read = self._read + bytearray(len(self._read))
        return memoryview(self._read)[self._end :]

    def _take(self, heard: list[Any]) -> None:
        """The frames that are whole, and the beginning of a large one."""
        while self._end - self._start >= FRAME.size:
            length, size = FRAME.unpack_from(self._read, self._start)
            if length > MAX_HEAD_BYTES:
                raise self._lost(f"a head of {length:,} bytes")
            at = self._start + FRAME.size
            if self._end - at < length:
                return
            messages = self._decoded(bytes(memoryview(self._read)[at : at + length]), size)
            self._start = at + length
            if not size:
                heard += messages
                continue
            large = _Large(messages, size)
            num = min(size, self._end - self._start)
            large.rest[:num] = memoryview(self._read)[self._start : self._start + num]
            large.rest = large.rest[num:]
            self._start += num
            if len(large.rest):
                self._large = large
                return
            heard += large.whole()

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

    def _decoded(self, head: bytes, size: int) -> list[Any]:
        try:
            messages: list[Any] = self._decoder.decode(head)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._lost(f"it said what cannot be: {error}") from None
        expected = 0
        for each in messages:
            if isinstance(each, Asked | Answered) and each.size:
                if each.size < 0:
                    raise self._lost(f"a body of {each.size:,} bytes")
                expected += each.size
        if size != expected or size > self._max_body_bytes:
            limit = f"{expected:,} are expected, and at most {self._max_body_bytes:,} taken"
            raise self._lost(f"bodies of {size:,} bytes where {limit}")
        return messages

    def _lost(self, why: str) -> LinkLost:
        return LinkLost(f"the link to {self.link.peer} is lost", [self.link.peer], why=why)


class _Large:
    """A frame whose bodies follow its head, while they come."""

    def __init__(self, messages: list[Any], size: int) -> None:
        self._messages, self._body = messages, bytearray(size)
        self.rest = memoryview(self._body)

    def whole(self) -> list[Any]:
        """The messages, each with its body."""
        body, at = memoryview(self._body), 0
        for each in self._messages:
            if isinstance(each, Asked | Answered) and each.size:
                each.body, each.size, at = bytes(body[at : at + each.size]), 0, at + each.size
        return self._messages
