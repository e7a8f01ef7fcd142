"""Events as devices would send them, about 300 bytes each; what every benchmark of ingest and lake uses."""

from __future__ import annotations

import json
import random

NONCE = "NONCE---"


def events(count: int, seed: int = 0, nonce: str = NONCE) -> bytes:
    """A JSON array; ids hold the nonce, eight characters that a load generator replaces."""
    chance = random.Random(seed)
    rows = [
        {
            "event_id": f"0192{nonce}-{number:06d}-7c3e-9a5b1d2f",
            "event_time": 1_764_100_000_000 + 37 * number,
            "kind": chance.choice(["view", "click", "cart"]),
            "subject": f"u{chance.randrange(10**6)}",
            "object": f"i{min(int(chance.paretovariate(0.8)), 10**4)}",
            "session": f"s{chance.randrange(10**6)}",
            "device_class": chance.choice(["phone", "tv", "laptop"]),
            "app": "shop",
            "language": chance.choice(["en", "de", "ja"]),
            "country": "DE",
            "props": {
                "price": round(100 * chance.random(), 2),
                "position": number % 50,
                "title": "one title of usual length",
                "ab": "variant-b",
            },
        }
        for number in range(count)
    ]
    return json.dumps(rows, separators=(",", ":")).encode()
