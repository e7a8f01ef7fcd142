"""A server whose times are known: one request after the other, each for as long as its path says. Nothing of gyral in it.

`/work?MS` takes MS milliseconds after those before it; `/503`, `/close`, `/garbage`, `/hang` do what they are called;
`/stream?FIRST,EACH,N` sends N tokens, `/cut` a stream without its end, `/told` one whose error comes as an event.
"""

import asyncio
import json
import sys

free_at = 0.0


def answer(body, status="200 OK", media="application/json"):
    return f"HTTP/1.1 {status}\r\ncontent-type: {media}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def token(text):
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


async def stream(writer, first_ms, each_ms, num):
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    writer.write(chunk(b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'))
    begin = asyncio.get_running_loop().time()
    for number in range(num):
        await asyncio.sleep(begin + (first_ms + number * each_ms) / 1e3 - asyncio.get_running_loop().time())
        event = token(f" w{number}")
        writer.write(chunk(event[:9]))
        await asyncio.sleep(0)
        writer.write(chunk(event[9:]))
    writer.write(chunk(b'data: {"choices": [], "usage": {"completion_tokens": %d}}\n\ndata: [DONE]\n\n' % num) + b"0\r\n\r\n")


async def serve(reader, writer):
    global free_at
    loop = asyncio.get_running_loop()
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line[15:] for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
            length = int(lengths[0]) if lengths else 0
            await reader.readexactly(length)
            path, _, query = head.split(b" ")[1].decode().partition("?")
            if path == "/work":
                free_at = max(free_at, loop.time()) + float(query) / 1e3
                await asyncio.sleep(free_at - loop.time())
                writer.write(answer(b"{}"))
            elif path == "/503":
                writer.write(answer(b"{}", "503 Service Unavailable"))
            elif path == "/close":
                break
            elif path == "/garbage":
                writer.write(b"what is this\r\n\r\n")
            elif path == "/stream":
                first_ms, each_ms, num = map(int, query.split(","))
                await stream(writer, first_ms, each_ms, num)
            elif path == "/cut":
                writer.write(answer(token("a"), media="text/event-stream"))
            elif path == "/told":
                writer.write(answer(b'data: {"error": {"message": "no"}}\n\ndata: [DONE]\n\n', media="text/event-stream"))
            elif path == "/metrics":
                writer.write(answer(b'# HELP a b\nprocess_cpu_seconds_total{pid="1"} 1.5\nprocess_cpu_seconds_total 2\n'))
            elif path == "/hang":
                await asyncio.sleep(3600)
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
