"""Finding what is private against datatrove's PII formatter, Python's `re` and google-re2, on manuals and on real mails.

Ordinary text: the manuals of GNOME (13,131 pages, tags stripped). Mails: the 6,046 of SpamAssassin's corpus with headers, three
addresses a kilobyte. datatrove replaces addresses of mail and public IPv4; `re` and re2 search for its two expressions; gyral
looks for eight kinds. Each in a process of its own, in turn; CPU seconds without reading; medians of the rounds.

Quality on the mails, against expressions written apart from the kernels: addresses of mail as HTML's specification has them,
four numbers with dots. What only one side finds is counted by why, as far as a rule tells. Nothing found is shown or kept.
Command: .venv/bin/python benchmarks/curate/privacy.py (about four minutes)
"""

from __future__ import annotations

import ipaddress
import json
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gyral.curate.text.privacy import KINDS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, in_turn, peer, timed, write
from texts import mails, manuals

ROUNDS = 3
DATATROVE = ["datatrove[processing]==0.10.1", "google-re2==1.1.20251105", "pyarrow", "orjson"]
_ATOM, _LABEL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+", r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
MAIL = rf"\b{_ATOM}(?:\.{_ATOM})*@(?:(?:{_LABEL}\.)+{_LABEL})"
IPV4 = r"(?<![\w.])(?:(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)\.){3}(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)(?![\w.]*\w)"

HEAD = """
import json, re, sys, time
import pyarrow.parquet as pq
table = pq.read_table(sys.argv[1]).combine_chunks()
size = sum(len(text.encode()) for text in table["text"].to_pylist()) / 1e6
"""
GYRAL = (
    HEAD
    + """
import pyarrow as pa
from gyral.curate.text.privacy import Privacy
(batch,) = table.to_batches()
Privacy()(batch.slice(0, 1))
start = time.process_time()
out = Privacy()(batch)
used = time.process_time() - start
pq.write_table(pa.table({name: out[name] for name in out.schema.names if name != "text"}), sys.argv[2])
print(json.dumps({"mb_per_cpu_s": size / used}))
"""
)
PEER = (
    HEAD
    + """
if sys.argv[3] == "datatrove":
    from datatrove.data import Document
    from datatrove.pipeline.formatters import PIIFormatter
    do = PIIFormatter().format
else:
    import re2
    module = re2 if sys.argv[3] == "re2" else re
    mail, ip = (module.compile(each) for each in json.loads(sys.argv[2]))
    do = lambda text: (sum(1 for _ in mail.finditer(text)), sum(1 for _ in ip.finditer(text)))
texts = table["text"].to_pylist()
texts = texts[:: max(1, int(size / float(sys.argv[4])))]
size = sum(len(text.encode()) for text in texts) / 1e6
do(texts[0])
start = time.process_time()
for text in texts:
    do(text)
print(json.dumps({"mb_per_cpu_s": size / (time.process_time() - start)}))
"""
)


def main() -> None:
    python = peer("curate-datatrove", DATATROVE)
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, texts in (("manuals", manuals(Path(folder))), ("mails", [mail for _, mail in mails()])):
            path = Path(folder, f"{name}.parquet")
            pq.write_table(pa.table({"text": texts}), path)
            figures = _speed(path, python)
            ours = figures["gyral"]["mb_per_cpu_s"]["median"]
            found = pq.read_table(path.with_suffix(".gyral"))
            results[name] = {
                "documents": len(texts),
                "mb": round(sum(len(text.encode()) for text in texts) / 1e6, 1),
                "speed": figures,
                "times": {
                    each: round(ours / figures[each]["mb_per_cpu_s"]["median"], 1) for each in figures if each != "gyral"
                },
                "found": {kind: sum(found[f"num_{kind}"].to_pylist()) for kind in KINDS},
                "quality": _quality(texts, found) if name == "mails" else {},
            }
    write("curate_privacy", {"results": results})


def _speed(path: Path, python: str) -> dict[str, dict[str, dict[str, float]]]:
    def run(command: list[str]) -> dict[str, float]:
        done = timed(command)
        return dict(json.loads(str(done["stdout"]).strip().splitlines()[-1]))

    simple = json.dumps([MAIL, r"(?:(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)\.){3}(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"])

    def of(name: str, most_mb: int) -> list[str]:
        return [python, "-c", PEER, str(path), simple, name, str(most_mb)]

    return in_turn(
        {
            "gyral": lambda: run([PYTHON, "-c", GYRAL, str(path), str(path.with_suffix(".gyral"))]),
            "datatrove": lambda: run(of("datatrove", 8)),
            "re": lambda: run(of("re", 8)),
            "re2": lambda: run(of("re2", 1000)),
        },
        ROUNDS,
        warmup=0,
    )


def _quality(texts: list[str], found: pa.Table) -> dict[str, object]:
    mail, ip = re.compile(MAIL), re.compile(IPV4)
    mails, hosts = Counter[str](), Counter[str]()
    cuts = {kind: found[f"cut_{kind}"].to_pylist() for kind in ("email", "ip", "private_ip")}
    for row, whole in enumerate(texts):
        text = whole.encode().decode("latin-1")  # places in bytes
        ours = dict(zip(cuts["email"][row][1::2], cuts["email"][row][::2], strict=True))
        theirs = {each.end(): each.start() for each in mail.finditer(text)}
        mails["both"] += len(ours.keys() & theirs.keys())
        mails["both_same_begin"] += len(ours.items() & theirs.items())
        mails["only_gyral"] += len(ours.keys() - theirs.keys())
        for end in theirs.keys() - ours.keys():
            mails[f"only_re_{_why_no_mail(text[theirs[end] : end])}"] += 1
        public = set(zip(cuts["ip"][row][::2], cuts["ip"][row][1::2], strict=True))
        private = set(zip(cuts["private_ip"][row][::2], cuts["private_ip"][row][1::2], strict=True))
        public = {each for each in public if ":" not in text[each[0] : each[1]]}
        wanted = {each.span() for each in ip.finditer(text) if _is_public(each.group())}
        hosts["both"] += len(public & wanted)
        hosts["only_gyral"] += len(public - wanted)
        hosts["private"] += len(private)
        for begin, end in wanted - public:
            hosts[f"only_re_{_why_no_host(text, begin, end)}"] += 1
    total = sum(count for name, count in mails.items() if name == "both" or name.startswith("only_re"))
    all_hosts = sum(count for name, count in hosts.items() if name == "both" or name.startswith("only_re"))
    return {
        "email": dict(mails),
        "ipv4": dict(hosts),
        "email_found_of_re": round(mails["both"] / total, 4),
        "ipv4_found_of_re": round(hosts["both"] / all_hosts, 4),
    }


def _why_no_mail(address: str) -> str:
    top = address.rpartition(".")[2].lower()
    if not top.isalpha():
        return "top_level_with_digits"
    return (
        "local_name"
        if top in ("localdomain", "local", "lan", "internal", "localhost", "invalid", "example", "test")
        else "other"
    )


def _is_public(text: str) -> bool:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def _why_no_host(text: str, begin: int, end: int) -> str:
    if all(len(each) == 1 for each in text[begin:end].split(".")):
        return "single_digits"
    if text[begin - 1 : begin] in ("-", "/", "_", "+", "#", "$", "@"):
        return "glued"
    before = re.search(r"([A-Za-z]+)[ :.=(#\t\"']{0,4}$", text[max(0, begin - 20) : begin])
    return (
        f"after_{before.group(1).lower()}"
        if before and before.group(1).lower() in ("version", "ver", "v", "release")
        else "other"
    )


if __name__ == "__main__":
    main()
