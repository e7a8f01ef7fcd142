"""A project whose names, kinds, events, settings, errors and log lines are script, made by the verbs."""

import csv
import json
import subprocess
import sys

from gyral.config import Config
from gyral.config.sections import Device
from gyral.event.codec import encode_payload
from gyral.event.wire import check_json, to_columns
from gyral.ingest.drain import Drain
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog

SCRIPT = "<script>window.ran=1</script>"
EVIL = f"\"'></title></style></svg>{SCRIPT}<img src=x onerror=window.ran=1>{{{{7*'7'}}}}"
FILE = 'a"><img src=x onerror=window.ran=1>.csv'
NOW_US = 1_790_000_000_000_000


def gyral(root, *words):
    """Run a command; its exit status."""
    command = [sys.executable, "-m", "gyral", *words]
    return subprocess.run(command, cwd=root, capture_output=True, timeout=110).returncode


def write(root):
    """Make it below `root`; the lake's numbers."""
    root.mkdir()
    with open(root / FILE, "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["subject", "object", "event_time", "kind", "country"])
        rows = [
            (f"c{n % 17}{EVIL}", f"p{(n * n + n // 3) % 11}{EVIL}", 1_700_000_000 + 1000 * n, EVIL, EVIL) for n in range(300)
        ]
        lines.writerows(rows)
    settings = ("--set", f"listen.origins={json.dumps([EVIL])}", "--set", f"devices={{{json.dumps(EVIL)}={{skew_s=1.0}}}}")
    assert gyral(root, "train", f"./{FILE}", "--budget", "1s", *settings) == 0
    (root / "b.csv").write_text(f'subject,object,event_time\nu,p,"{SCRIPT}"\n')
    (root / "c.csv").write_text(f'"{SCRIPT}",b\n1,2\n')
    for name in ("b", "c"):
        assert gyral(root, "train", f"./{name}.csv", *settings) == 1
    lake = Lake(root)
    event = {"kind": EVIL, "subject": EVIL, "object": EVIL, "device_class": EVIL, "language": EVIL, "schema_id": EVIL}
    sent = [{"event_id": f"{n}", "event_time": NOW_US // 1000 + 10**7, **event, "props": {EVIL: EVIL}} for n in range(9)]
    with SqliteLog(lake.log_folder) as log:
        log.append("a", EVIL, encode_payload(to_columns(check_json(json.dumps(sent).encode()).events, NOW_US), None), 9)
        Drain.of(lake, log, Config(devices={EVIL: Device(skew_s=1.0)})).run()
    return lake.overview
