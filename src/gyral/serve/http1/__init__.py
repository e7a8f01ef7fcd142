"""The gateway's own HTTP/1.1 server: any ASGI application, and fast handlers for hot routes.

Parsing is llhttp's, by `httptools`; framing, order, limits, time and closing are decided here. `uvloop` is used when it is
installed. What each file decides: `limits` how much and how long, `head` which requests are requests, `answer` how answers look
on the wire, `waits` who is waited for, `handshakes` who begins with TLS, `connection` the order of things on one socket, `asgi`
the bridge to applications, `server` listening, draining and running.
"""
