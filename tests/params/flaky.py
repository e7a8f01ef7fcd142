"""A bad line before a shard behind TCP: frames are lost, repeated, swapped, held up, or cut in the middle."""

import contextlib
import random
import socket
import struct
import threading
import time

FRAME = struct.Struct("<IQ")
HELLO = {"down": [8 + 32, 32], "up": [32 + 32 + 4]}
"""Bytes of the proof before the first frame, in each direction."""


class Flaky:
    def __init__(self, port, seed, rate=0.01):
        self.target, self.rate, self.is_calm = port, rate, False
        self.random, self.harm = random.Random(seed), dict.fromkeys(("lost", "repeated", "swapped", "late", "cut"), 0)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.socket.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.socket.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    near.close()
                    continue
                for source, sink, way in ((near, far, "up"), (far, near, "down")):
                    threading.Thread(target=self._carry, args=[source, sink, way], daemon=True).start()

    def _carry(self, source, sink, way):
        try:
            for size in HELLO[way]:
                sink.sendall(exactly(source, size))
            held = None
            while True:
                start = exactly(source, FRAME.size)
                frame = start + exactly(source, sum(FRAME.unpack(start)))
                what = "" if self.is_calm or self.random.random() > self.rate else self.random.choice(list(self.harm))
                if what:
                    self.harm[what] += 1
                if what == "lost":
                    continue
                if what == "cut":
                    sink.sendall(frame[: len(frame) // 2])
                    return
                if what == "swapped" and held is None:
                    held = frame
                    continue
                if what == "late":
                    time.sleep(0.05)
                sink.sendall(frame * (2 if what == "repeated" else 1))
                if held is not None:
                    sink.sendall(held)
                    held = None
        except OSError:
            pass
        finally:
            for each in (source, sink):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()


def exactly(source, size):
    parts = []
    while size:
        part = source.recv(min(size, 1 << 16))
        if not part:
            raise OSError("ended")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
