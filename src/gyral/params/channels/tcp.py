"""Shards behind TCP: arrays follow the head and are received into the memory that they are used in.

Rows may travel as `bf16` or `int8` (one scale a row): half and a quarter of the bytes. Values of pulls are rounded to the
nearest, gradients at random so that they are right on average, from (push, key): a push that is sent again is the same.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import numpy as np

from gyral.engine.links import Link
from gyral.engine.listening import Listener, connect
from gyral.errors import ConfigError
from gyral.params import coding, wire
from gyral.params.channels import Channel
from gyral.params.channels.arena import Arena
from gyral.params.channels.sockets import Loop, SocketChannel, wait
from gyral.params.memory import Reservation
from gyral.params.spec import TableSpec
from gyral.params.wire import Arrays, Head

MAX_BODY_BYTES = 1 << 31
ARENA_BYTES = 1 << 36
"""Addresses for rows that a client has pulled, which cost nothing until they are used."""
CONNECT_S = 5.0


class TcpCodec:
    """Arrays after the head.

    Parameters
    ----------
    is_shard : whose side this is.
    """

    def __init__(self, specs: Sequence[TableSpec], name: str, is_shard: bool) -> None:
        self._dims = [spec.dim for spec in specs]
        self.coding, self._is_shard = name, is_shard
        self._asked: dict[int, int] = {}
        self._arena = Arena(Reservation(ARENA_BYTES).view(np.uint8)) if not is_shard else None
        self._scratch = {name: np.empty(0, np.uint8) for name in ("keys", "grads", "base", "rows")}
        self._head: Any = None
        self._arrays: list[np.ndarray] = []

    def into(self, head: bytes, size: int) -> Sequence[Any]:
        """Arrays of the size that the head says, if that is a size that may be."""
        self._head = (wire.decode_from_client if self._is_shard else wire.decode_from_shard)(head)
        self._arrays = []
        if not isinstance(self._head, wire.Pull | wire.Push | wire.Rows):
            return ()
        num, dim = self._head.num, self._dim(self._head)
        dtype, width = coding.form(self.coding, dim)
        row_bytes = width * np.dtype(dtype).itemsize
        several = {wire.Pull: 0, wire.Rows: 1}.get(type(self._head), 1 + getattr(self._head, "has_base", False))
        expected = (1 if isinstance(self._head, wire.Rows) else 8) + several * row_bytes
        if num < 0 or size > MAX_BODY_BYTES or num * expected != size:
            raise ValueError(f"{num:,} keys in {size:,} bytes")
        if isinstance(self._head, wire.Rows):
            self._arrays = [self._lent(num, dim), np.empty(num, np.bool_)]
        else:
            names = ["grads", "base"][:several]
            self._arrays = [self._used("keys", 8 * num, np.int64), *(self._shaped(name, num, dim) for name in names)]
        return self._arrays

    def _dim(self, head: wire.Pull | wire.Push | wire.Rows) -> int:
        """Numbers a row of what this is about."""
        if isinstance(head, wire.Rows):
            if head.to not in self._asked:
                raise ValueError("rows that nobody asked for")
            return self._asked[head.to]
        if not 0 <= head.table < len(self._dims):
            raise ValueError(f"there is no table {head.table}")
        return self._dims[head.table]

    def received(self, head: bytes) -> tuple[Any, Arrays]:
        """A frame that is complete."""
        made, arrays = self._head, self._arrays
        self._head, self._arrays = None, []
        if isinstance(made, wire.Rows):
            dim = self._asked.pop(made.to)
            return made, (coding.decoded(self.coding, arrays[0], dim), arrays[1])
        if isinstance(made, wire.Push):
            dim = self._dims[made.table]
            return made, (arrays[0], *(coding.decoded(self.coding, each, dim) for each in arrays[1:]))
        return made, arrays

    def room(self, head: wire.Pull, is_sending: bool) -> np.ndarray | None:
        """Where rows were before, once they are sent."""
        dim = self._dims[head.table]
        return None if is_sending else self._used("rows", 4 * head.num * dim, np.float32).reshape(head.num, dim)

    def _used(self, name: str, size: int, dtype: Any) -> np.ndarray:
        """Memory of this link that is used again for every frame."""
        if len(self._scratch[name]) < size:
            self._scratch[name] = np.empty(2 * size, np.uint8)
        return self._scratch[name][:size].view(dtype)

    def _shaped(self, name: str, num: int, dim: int) -> np.ndarray:
        dtype, width = coding.form(self.coding, dim)
        return self._used(name, num * width * np.dtype(dtype).itemsize, dtype).reshape(num, width)

    def _lent(self, num: int, dim: int) -> np.ndarray:
        """Room for rows that the caller gets as they are; others are scratch."""
        if self.coding != "f32" or self._arena is None:
            return self._shaped("rows", num, dim)
        part = self._arena.take(4 * num * dim)
        return self._arena.lent(part, part[0], num * dim, np.float32).reshape(num, dim)

    def frame(self, head: Head, arrays: Arrays) -> tuple[bytes, Arrays]:
        """Rows in the coding of this link."""
        if isinstance(head, wire.Rows):
            return wire.encode(head), (coding.nearest(self.coding, arrays[0]), arrays[1])
        if isinstance(head, wire.Push):
            bases = [coding.nearest(self.coding, each) for each in arrays[2:]]
            return wire.encode(head), (arrays[0], coding.unbiased(self.coding, arrays[1], arrays[0], head.seq), *bases)
        if isinstance(head, wire.Pull):
            self._asked[head.number] = self._dims[head.table]
        return wire.encode(head), arrays


class TcpTransport:
    """Shards that listen somewhere.

    Raises
    ------
    ConfigError : an address is none, or the coding is not known.
    """

    is_copying = True

    def __init__(self, addresses: Sequence[str], specs: Sequence[TableSpec], secret: bytes, name: str) -> None:
        if name not in coding.NAMES:
            raise ConfigError(f"`{name}` is no coding of rows", hint="allowed: `f32`, `bf16`, `int8`")
        self._addresses = []
        for address in addresses:
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal():
                raise ConfigError(f"`{address}` is no address of a shard", hint="`tcp://127.0.0.1:7001,127.0.0.1:7002`")
            self._addresses.append((host, int(port)))
        self._specs, self._secret, self._coding = specs, secret, name
        self.names = [f"shard {n} of {len(addresses)} at {address}" for n, address in enumerate(addresses)]

    def connect(self, shard: int) -> Channel:
        """A new link."""
        link = connect(self._addresses[shard], self._secret, peer=self.names[shard], timeout_s=CONNECT_S)
        return SocketChannel(link, TcpCodec(self._specs, self._coding, is_shard=False))

    def wait(self, channels: Sequence[Channel], timeout_s: float) -> None:
        """Until one of them can move something."""
        wait(channels, timeout_s)

    def close(self) -> None:
        """Nothing was started here."""


class TcpDoor:
    """Where clients of a shard come in."""

    def __init__(self, host: str, port: int, secret: bytes, loop: Loop, specs: Sequence[TableSpec]) -> None:
        self._loop, self._specs = loop, specs
        bound = socket.create_server((host, port), backlog=128)
        self._bound = bound
        self._listener = Listener(secret, bound=bound, on_link=lambda link: loop.soon(lambda: self._admit(link)))
        self.address = f"{self._listener.host}:{self._listener.port}"

    def close(self) -> None:
        """Take no more."""
        self._listener.close()
        self._bound.close()

    def _admit(self, link: Link) -> None:
        self._loop.admit(link, TcpCodec(self._specs, "f32", is_shard=True))
