"""`gyral bench alike` against a real server: its threshold holds for the vectors of the model, or is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

from gyral.model.lm import LM

from .. import verbs
from ..serve.openai.conftest import publish_lm


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    root = tmp_path_factory.mktemp("alike")
    reader = LM.load(publish_lm(root))
    command = [sys.executable, "-P", "-m", "gyral", "serve", "tiny", "--root", str(root), "--port", "0", "--json"]
    with verbs.popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        yield root, reader, json.loads(child.stdout.readline())["url"]
        child.terminate()


def bench(root, pairs, *words):
    (root / "pairs.jsonl").write_text("\n".join(json.dumps(each) for each in pairs))
    return verbs.gyral("bench", "alike", root / "pairs.jsonl", "--root", root, *words, timeout=120)


def test_the_threshold_is_that_of_the_servers_vectors_and_pairs_that_show_none_are_refused(served):
    root, reader, url = served
    questions = [f"{n} times {n + 2}" for n in range(60)]
    same = [{"one": each, "other": each + ("." if n % 2 else ""), "is_same": True} for n, each in enumerate(questions)]
    others = [{"one": each, "other": "~" * (n + 20), "is_same": False} for n, each in enumerate(questions)]

    def cosine(pair):
        one, other = (reader.vector(reader.tokens(pair[name])) for name in ("one", "other"))
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    near, far = ([cosine(each) for each in pairs] for pairs in (same, others))
    assert max(far) < min(near)
    done = bench(root, same + others, "--url", url, "--json", "--max-error", ".1")
    told = json.loads(done.stdout)
    assert min(abs(each - told["threshold"]) for each in near + far) < 1e-5
    assert told["wrong_above"] == sum(each >= told["threshold"] - 1e-6 for each in far) < 0.1 * 120 and told["same_above"] == 1
    assert told["pairs"] == 120 and told["model"] == "tiny@1"
    assert "serve.alike = " in bench(root, same + others, "--max-error", ".1").stdout  # the server of the project
    refused = bench(root, same + others)
    assert refused.returncode == 1 and "no threshold keeps wrong answers below 1.0%" in refused.stderr
    refused = bench(root, [{"one": "a"}], "--url", url)
    assert refused.returncode == 1 and "holds no pairs" in refused.stderr
