"""What streaming a token costs a server: gyral's OpenAI routes, and FastAPI's StreamingResponse with pydantic on uvicorn.

Both are fed by the same kind of thread: every 10 ms it hands one token of each of 32 streams to the event loop, as a decoder
of a batch of 32 does. Nothing is computed, so what is counted is the way of a token: its JSON, the hop into the loop, the
socket. CPU time is of the whole server process by the system's accounting, divided by tokens that a client counted; that of an
idle server is in it (the thread wakes 100 times a second in both).

Predicted before it was run: gyral 45 µs a token, FastAPI 110; at most half was asked for.

    python benchmarks/serve/openai_stream.py
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, in_turn, peer, write

STREAMS, TOKENS, REQUESTS, TICK_S = 32, 64, 6, 0.01
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
PEER = ["fastapi==0.165.*", "uvicorn[standard]==0.54.*"]

GYRAL = """
import sys, time
from gyral.config.sections import Serve
from gyral.serve.app import App
from gyral.serve.engine import Part
from gyral.serve.openai import forms
from gyral.serve.openai.app import OpenAi
from gyral.serve.openai.runner import Runners
from gyral.serve.server import serve_app

class Model:
    name, card, routes = "m@1", {"family": "lm"}, {}

class Slots:
    default = Model()
    def get(self, slot): return self.default
    def names(self): return {"default": "m@1"}
    def loaded_at(self, slot="default"): return 0.0

class Tokens:
    version = "m@1"
    def __init__(self): self.asks, self.next = {}, 0.0
    def submit(self, ask): self.asks[ask.id] = 0
    def cancel(self, id): self.asks.pop(id, None)
    def close(self): pass
    def step(self):
        if not self.asks: return []
        time.sleep(max(self.next - time.monotonic(), 0)); self.next = time.monotonic() + TICK_S
        parts = []
        for id, done in list(self.asks.items()):
            is_last = done + 1 == TOKENS
            event = forms.event("/v1/chat/completions", 0, " token", "length" if is_last else None, None, None, done == 0)
            parts.append(Part(id, 200, forms.choices([event]), is_last))
            self.asks[id] += 1
            if is_last: del self.asks[id]
        return parts

slots = Slots()
openai = OpenAi(slots, 1 << 16, Runners(lambda model: Tokens()))
serve_app(App(slots, Serve(), None, openai.mounts), "127.0.0.1", 0, lambda url: print(url, flush=True))
"""

FASTAPI = """
import asyncio, socket, threading, time, uuid
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

class Message(BaseModel):
    role: str
    content: str
class Request(BaseModel):
    model: str
    messages: list[Message]
    stream: bool = False
class Delta(BaseModel):
    role: str | None = None
    content: str | None = None
class Choice(BaseModel):
    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: str | None = None
class Chunk(BaseModel):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[Choice]

app, feeds, loop = FastAPI(), {}, None

def deliver(parts):
    for queue, token in parts: queue.put_nowait(token)

def feed():
    while True:
        time.sleep(TICK_S)
        parts = []
        for id, (queue, done) in list(feeds.items()):
            parts.append((queue, (" token", done + 1 == TOKENS)))
            feeds[id] = (queue, done + 1)
            if done + 1 == TOKENS: del feeds[id]
        if parts: loop.call_soon_threadsafe(deliver, parts)

@app.post("/v1/chat/completions")
async def chat(request: Request):
    global loop
    loop = asyncio.get_running_loop()
    id, queue, created = f"chatcmpl-{uuid.uuid4()}", asyncio.Queue(), int(time.time())
    feeds[id] = (queue, 0)
    async def events():
        is_last = False
        while not is_last:
            text, is_last = await queue.get()
            choice = Choice(delta=Delta(content=text), finish_reason="length" if is_last else None)
            chunk = Chunk(id=id, created=created, model=request.model, choices=[choice])
            yield f"data: {chunk.model_dump_json()}\\n\\n"
        yield "data: [DONE]\\n\\n"
    return StreamingResponse(events(), media_type="text/event-stream")

threading.Thread(target=feed, daemon=True).start()
server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen(1024)
print(f"http://127.0.0.1:{server.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[server])
"""


class Server:
    """A server in a process of its own."""

    def __init__(self, python: str, code: str) -> None:
        code = f"TICK_S, TOKENS = {TICK_S}, {TOKENS}\n" + code
        self._child = subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True)
        assert self._child.stdout is not None
        self._port = int(self._child.stdout.readline().rsplit(":", 1)[1])

    def run(self) -> dict[str, float]:
        """CPU µs of the server a token."""
        before = self._cpu_s()
        began = time.perf_counter()
        tokens = asyncio.run(_load(self._port))
        return {"us_per_token": 1e6 * (self._cpu_s() - before) / tokens, "tokens_per_s": tokens / (time.perf_counter() - began)}

    def close(self) -> None:
        self._child.kill()
        self._child.wait()

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _load(port: int) -> int:
    return sum(await asyncio.gather(*(_stream(port) for _ in range(STREAMS))))


async def _stream(port: int) -> int:
    """Tokens of some answers, one after the other on one connection."""
    body = json.dumps(BODY).encode()
    fields = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{fields}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    tokens = 0
    for _ in range(REQUESTS):
        writer.write(head.encode() + body)
        answer = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)
        assert answer.count(b"[DONE]") == 1, answer[:500]
        tokens += answer.count(b'"choices"')
    writer.close()
    assert tokens == REQUESTS * TOKENS, tokens
    return tokens


def main() -> None:
    servers = {"gyral": Server(PYTHON, GYRAL), "fastapi": Server(peer("fastapi", PEER), FASTAPI)}
    try:
        found = in_turn({name: server.run for name, server in servers.items()}, 5)
    finally:
        for server in servers.values():
            server.close()
    ratio = found["gyral"]["us_per_token"]["median"] / found["fastapi"]["us_per_token"]["median"]
    setting = {"streams": STREAMS, "tokens": TOKENS, "requests": REQUESTS, "tick_s": TICK_S}
    write("openai_stream", {"ratio": round(ratio, 3), **found, "setting": setting})


if __name__ == "__main__":
    main()
