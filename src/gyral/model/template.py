"""Chat templates, which are programs of whoever made the model, run in a process of their own with little memory and time.

Jinja's sandbox keeps a template from what Python holds, and not from `{{ "x" * 10 ** 9 }}` or two loops of 100,000 inside each
other. There is no end of such words, so nothing here looks for them: the process may take `MAX_BYTES` of memory and `MAX_CPU_S`
of a processor for a prompt, has none of this process's environment, and is ended by the system beyond that. A template that had
to be ended is not tried again. One process for all templates of a server: 24 MB, begun with the first chat that has one.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, BinaryIO

import msgspec

from gyral.errors import InputError, MissingExtra

MAX_CPU_S = 1
MAX_BYTES = 512 << 20
"""Of addresses, of which Python and Jinja take 60 MB."""
MAX_WALL_S = 60.0
"""Where the machine is so busy that the processor's time does not come."""
MAX_CHARS = 65_536
KEPT = 16
"""Templates that stay compiled: that takes 1.3 ms of CPU, saying something with one .03 ms."""
OTHERS = (-signal.SIGKILL, -signal.SIGTERM)
"""How the process ends when it is not by what a template does: the system sends another signal at each of its limits."""
_SIZE = struct.Struct("<I")
_INHERITED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")


class Rendered(msgspec.Struct):
    """What a template said, or why it did not."""

    text: str = ""
    why: str = ""


def rendered(template: str, **values: Any) -> str:
    """The text of a template.

    Raises
    ------
    InputError : it fails, or takes too much.  MissingExtra : `jinja2` is not installed.
    """
    renderer = _renderers.get(os.getpid())
    if renderer is None:  # the first one, or of a process that was forked since
        renderer = _renderers.setdefault(os.getpid(), Renderer())
    told = renderer.render(template, values)
    if told.why:
        raise InputError("the model's chat template refuses the conversation", why=told.why[:500])
    return told.text


class Renderer:
    """The process, begun when it is needed. For several threads."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._refused: dict[str, str] = {}
        atexit.register(self.close)

    def render(self, template: str, values: dict[str, Any]) -> Rendered:
        """What the template says."""
        with self._turn:
            if template in self._refused:
                return Rendered(why=self._refused[template])
            body = msgspec.msgpack.encode((template, values))
            for _ in range(2):  # a process that somebody else ended says nothing of a template
                process = self._process = self._process or self._begun()
                told = _asked(process, body, time.monotonic() + MAX_WALL_S)
                if told is not None:
                    return msgspec.msgpack.decode(told, type=Rendered)
                if self._end() not in OTHERS:
                    why = f"it takes more than {MAX_CPU_S} s or {MAX_BYTES >> 20:,} MiB, and is not tried again"
                    self._refused = {**self._refused, template: why} if len(self._refused) < 64 else {template: why}
                    return Rendered(why=why)
            return Rendered(why="it was not rendered in time, or its process was ended twice")

    def close(self) -> None:
        """End the process; may be called twice."""
        with self._turn:
            if self._process is not None:
                self._process.kill()
            self._end()

    def _begun(self) -> subprocess.Popen[bytes]:
        if importlib.util.find_spec("jinja2") is None:
            raise MissingExtra("jinja2", "serve", "a chat template")
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        command = [sys.executable, "-P", "-m", "gyral.model.template"]
        null, pipe = subprocess.DEVNULL, subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, env=environment, start_new_session=True)

    def _end(self) -> int:
        """How the process ended, or was ended here."""
        process, self._process = self._process, None
        if process is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):  # its pipes are closed a moment before it can be waited for
            process.wait(0.1)
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        return process.wait()


_renderers: dict[int, Renderer] = {}


def _asked(process: subprocess.Popen[bytes], body: bytes, until: float) -> bytes | None:
    """The answer of the process; None where it has ended, or does not come."""
    if process.stdin is None or process.stdout is None:
        return None
    with contextlib.suppress(OSError):  # it has ended: there is nothing to read either
        process.stdin.write(_SIZE.pack(len(body)) + body)
        process.stdin.flush()
    found, size = b"", _SIZE.size
    while len(found) < size:
        if not select.select([process.stdout], [], [], max(until - time.monotonic(), 0.0))[0]:
            return None
        piece = os.read(process.stdout.fileno(), 1 << 16)
        if not piece:
            return None
        found += piece
        if len(found) >= _SIZE.size:
            size = _SIZE.size + _SIZE.unpack_from(found)[0]
    return found[_SIZE.size :]


def main(asks: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the other side ends."""
    import resource

    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(why: str) -> None:
        raise TemplateError(why)

    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    compiled = lru_cache(KEPT)(environment.from_string)
    while len(head := asks.read(_SIZE.size)) == _SIZE.size:
        template, values = msgspec.msgpack.decode(asks.read(_SIZE.unpack(head)[0]))
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + MAX_CPU_S, resource.RLIM_INFINITY))
        body = msgspec.msgpack.encode(_render(compiled, template, values))
        answers.write(_SIZE.pack(len(body)) + body)
        answers.flush()


def _render(compiled: Callable[[str], Any], template: str, values: dict[str, Any]) -> Rendered:
    most, size = MAX_CHARS + 16 * len(values["messages"]), 0
    parts: list[str] = []
    try:
        for part in compiled(template).generate(**values):
            parts.append(part)
            size += len(part)
            if size > most:
                return Rendered(why=f"it writes more than {most:,} characters")
        return Rendered("".join(parts))
    except MemoryError:
        return Rendered(why=f"it takes more than {MAX_BYTES >> 20:,} MiB")
    except Exception as error:  # it is a program, and may raise whatever it likes
        return Rendered(why=f"{error}"[:500] or type(error).__name__)


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
