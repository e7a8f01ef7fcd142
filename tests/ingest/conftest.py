import asyncio
import json

import pytest

from gyral.config.sections import Collect
from gyral.ingest.collector import Collector
from gyral.ingest.drain import Drain
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog


class World:
    """A collector over a log, and a drain beside it."""

    def __init__(self, root, **settings):
        self.notes = []
        self.lake = Lake(root)
        self.log = SqliteLog(self.lake.log_folder)
        self.drain = Drain(self.lake, self.log, 1_000)
        self.drain.open()
        config = Collect(**{"min_free_bytes": 0, **settings})
        self.collector = Collector(self.lake, self.log, config, self.drain.known, self.notes.append)

    def post(self, *bodies, **headers):
        """Answers (status, JSON, headers) to bodies that are all sent at once."""

        async def one(body):
            sent = []

            async def receive():
                return {"type": "http.request", "body": body, "more_body": False}

            async def send(message):
                sent.append(message)

            named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
            scope = {"type": "http", "method": "POST", "path": "/v1/events", "headers": named}
            await self.collector(scope, receive, send)
            return sent[0]["status"], json.loads(sent[1]["body"]), dict(sent[0]["headers"])

        async def every():
            return await asyncio.gather(*map(one, bodies))

        return asyncio.run(every())

    def run_drain(self):
        done = self.drain.run()
        self.collector.settled(self.drain.offsets)
        return done

    def ids(self):
        return sorted(self.lake.snapshot("events").read(["event_id"])["event_id"].to_pylist())

    def close(self):
        self.collector.close()
        self.log.close()


@pytest.fixture
def world(tmp_path):
    made = []

    def make(**settings):
        made.append(World(tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
