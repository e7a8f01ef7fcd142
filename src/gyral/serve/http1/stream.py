"""An answer in pieces: chunks in HTTP/1.1, until the connection closes in HTTP/1.0; each piece is sent when it is there.

The head waits for the first piece: a handler that fails before it still gets an error with a status. After it the only honest
sign of a failure is a connection that ends without its last chunk.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gyral.serve.http1.answer import BODILESS, LAST_CHUNK, Response, Stream, chunk, header_lines, start

if TYPE_CHECKING:
    from gyral.serve.http1.connection import Connection
    from gyral.serve.http1.request import Request


async def send_stream(connection: Connection, request: Request, stream: Stream) -> None:
    """Send all pieces, as fast as the client takes them.

    Raises
    ------
    Exception : what the iterator raised before its first piece.
    """
    pieces = stream.pieces
    head = b""
    is_chunked = request.version == "1.1"
    try:
        async for piece in pieces:
            if not head:
                head = _head(connection, request, stream, is_chunked)
                if request.method == "HEAD" or stream.status in BODILESS:
                    connection.write(head)
                    connection.done(request)
                    return
                connection.write(head + (chunk(piece) if is_chunked else piece) if piece else head)
            elif piece:
                connection.write(chunk(piece) if is_chunked else piece)
            if connection.drained is not None:
                await connection.drained
            if connection.is_lost():  # an iterator that waits for nothing would go on for nobody
                request.wake = asyncio.get_running_loop().create_future()
                await request.wake
    except asyncio.CancelledError:
        raise
    except Exception as error:
        if not head:
            raise
        connection.site.note(request, error)
        connection.abort()
        return
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()
    if not head:
        connection.answer(request, Response(b"", stream.status, stream.headers, stream.media))
        return
    if is_chunked:
        connection.write(LAST_CHUNK)
    connection.done(request)


def _head(connection: Connection, request: Request, stream: Stream, is_chunked: bool) -> bytes:
    if not is_chunked:
        request.keep_alive = False
    lines = header_lines(stream.headers)
    closing = connection.closing_line(request)
    coding = b"transfer-encoding: chunked\r\n" if is_chunked and stream.status not in BODILESS else b""
    return start(stream.status, stream.media) + connection.site.date + coding + closing + lines + b"\r\n"
