"""A load generator for `POST`: many keep-alive connections in one thread, each body with event ids of its own.

Run as a process of its own: `load.py URL CONNECTIONS SECONDS TEMPLATE [PER_SECOND]`. In the template, `NONCE---` is replaced by
eight new digits for each request. With a rate, requests are due at fixed moments and a latency counts from the moment its
request was due. Prints one JSON line: requests, statuses, seconds, latencies, its own CPU seconds.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections import Counter, deque
from pathlib import Path
from urllib.parse import urlsplit

NONCE = b"NONCE---"


def main() -> None:
    url, connections, seconds, template = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]).read_bytes()
    rate = float(sys.argv[5]) if len(sys.argv) > 5 else 0.0
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(template)}\r\n\r\n"
    request = head.encode() + template
    selector = selectors.EpollSelector()
    idle: deque[socket.socket] = deque()
    for _ in range(connections):
        connection = socket.create_connection((parts.hostname, parts.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        selector.register(connection, selectors.EVENT_READ)
        idle.append(connection)
    statuses: Counter[str] = Counter()
    latencies: list[float] = []
    due_at: dict[socket.socket, float] = {}
    sent, nonce = 0, time.time_ns() // 1000 % 10**7 * 10
    start = time.perf_counter()
    while True:
        now = time.perf_counter() - start
        if now >= seconds and (len(idle) == connections or now > seconds + 20):
            break
        while idle and now < seconds and (not rate or sent / rate <= now):
            connection = idle.popleft()
            due_at[connection] = sent / rate if rate else now
            connection.sendall(request.replace(NONCE, b"%08d" % ((nonce + sent) % 10**8)))
            sent += 1
            now = time.perf_counter() - start
        for key, _ in selector.select(0.001 if rate else 0.1):
            connection = key.fileobj
            answer = connection.recv(1 << 16)
            statuses[answer[9:12].decode() or "closed"] += 1
            latencies.append(time.perf_counter() - start - due_at[connection])
            idle.append(connection)
    took = time.perf_counter() - start
    latencies.sort()
    places = {share: min(len(latencies) - 1, int(len(latencies) * share / 100)) for share in (50, 99)}
    figures = {f"p{share}_ms": round(1e3 * latencies[place], 3) for share, place in places.items()}
    cpu_s = time.process_time()
    print(json.dumps({"requests": len(latencies), "statuses": statuses, "seconds": took, "cpu_s": cpu_s, **figures}))


if __name__ == "__main__":
    main()
