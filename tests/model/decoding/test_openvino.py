"""OpenVINO's passes against ours: the same logits over the same spans, and the same answers from the same engine."""

import importlib.util
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from gyral.errors import MissingExtra, UsageError
from gyral.model.decoding.engine import Decoding, Limits
from gyral.model.decoding.forward import Forward, Span
from gyral.model.decoding.openvino import OpenVinoForward
from gyral.model.decoding.pages import Pages
from gyral.model.decoding.prefix import Prefixes
from gyral.model.decoding.sampling import Sampling
from gyral.model.decoding.sequence import TokenAsk
from gyral.model.decoding.speculate import Drafter
from gyral.model.nets.gpt2 import Gpt2
from gyral.model.nets.llama import Llama, Shape
from gyral.model.quant import kernels
from gyral.model.quant.linear import installed
from gyral.model.quant.packing import to_int4, to_int8
from gyral.model.task import seeded

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the extra `openvino` is not installed"
)
SHAPE = Shape(61, 64, 2, 4, 2, 96)
LENGTH = 192


def net(shape=SHAPE):
    """Far from uniform, so that a wrong position or page is seen."""
    model = seeded(1, lambda: Llama(shape)).eval()
    generator = torch.Generator().manual_seed(1)
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.3, generator=generator)
    return model


def quantized(to):
    model = net(SHAPE)
    linears = {f"{name}.weight": each for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)}
    tied = {name: each for name, each in linears.items() if name != "logits.weight"}
    installed(model, {name: to(each.weight.detach().numpy()) for name, each in tied.items()}, {})
    return model


def pages_of(forward, num=40):
    shape = forward.shape
    return Pages(num, shape.depth, shape.kv_heads, shape.head_width, size=forward.page)


def answers(forward, asks, drafter=None, num=40):
    pages = pages_of(forward, num)
    decoding = Decoding(forward, pages, Prefixes(pages), "1", Limits(running=5, tokens=40, tokens_beside=9), drafter)
    waiting, found = list(asks), {ask.id: [] for ask in asks}
    while waiting or decoding.num_running or decoding.num_waiting:
        if waiting:
            decoding.submit(waiting.pop(0))
        for told in decoding.step():
            assert told.ended_by in ("", "length"), told
            found[told.id] += [drawn.token for drawn in told.drawn]
    return found, decoding.counts


def asks(num=9):
    """Prompts of all lengths, some with the same beginning; some drawn, some the likeliest."""
    random_ = random.Random(3)
    common = [random_.randrange(61) for _ in range(70)]
    found = []
    for number in range(num):
        prompt = common[: 15 * (number % 5)] + [random_.randrange(61) for _ in range(random_.randrange(1, 30))]
        how = Sampling(temperature=number % 2 * 0.8, seed=number)
        found.append(TokenAsk(number, prompt, random_.randrange(1, 50), how))
    return found


@pytest.fixture(scope="module")
def theirs():
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("the extra `openvino` is not installed")
    return OpenVinoForward(net(), LENGTH)


@pytest.fixture(scope="module")
def ours():
    return Forward(net(), LENGTH)


def test_logits_of_spans_of_any_length_and_place_are_ours(theirs, ours):
    spans = [(Span(0, 70, [7, 2, 9]), 70), (Span(0, 1, [4]), 1)]  # a chunk, and one position
    later = [(Span(70, 3, [7, 2, 9]), 3), (Span(1, 1, [4]), 1), (Span(0, 40, [1, 0]), 40)]
    random_ = np.random.default_rng(0)
    pages = {forward: pages_of(forward) for forward in (theirs, ours)}
    for batch, wanted in ((spans, [69, 70]), (later, [0, 1, 2, 3, 43])):
        tokens = random_.integers(0, 61, sum(num for _, num in batch)).tolist()
        found = theirs(tokens, [span for span, _ in batch], wanted, pages[theirs])
        halves = [span._replace(table=[2 * page + half for page in span.table for half in (0, 1)]) for span, _ in batch]
        expected = ours(tokens, halves, wanted, pages[ours])
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
        assert (found.argmax(1) == expected.argmax(1)).all() and found.shape == (len(wanted), 61)


def test_nothing_wanted_is_read_all_the_same(theirs):
    pages, whole = pages_of(theirs), pages_of(theirs)
    assert theirs([5, 6, 7], [Span(0, 3, [3])], [], pages).shape == (0, 61)
    after = theirs([8], [Span(3, 1, [3])], [0], pages)
    np.testing.assert_allclose(after, theirs([5, 6, 7, 8], [Span(0, 4, [3])], [3], whole), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_pages", [40, 8])
def test_answers_in_a_batch_are_those_of_our_passes(theirs, ours, num_pages):
    found, counts = answers(theirs, asks(), num=num_pages)
    expected, _ = answers(ours, asks())
    assert found == expected
    assert counts.cached > 30, "beginnings were found"
    assert (counts.preempted > 0) == (num_pages == 8)


def test_guesses_of_a_small_model_are_checked(theirs, ours):
    drafter = Drafter(ours, pages_of(ours, 80), 61, 3)
    found, counts = answers(theirs, asks(), drafter)
    assert counts.accepted > 0
    greedy = {ask.id for ask in asks() if not ask.how.temperature}
    expected, _ = answers(ours, asks())
    assert {id: found[id] for id in greedy} == {id: expected[id] for id in greedy}


@pytest.fixture
def few_bits(monkeypatch):
    """A kernel of few bits is chosen for every matrix, whatever its time."""
    monkeypatch.setattr(kernels, "_known", {})
    monkeypatch.setattr(kernels, "PATIENCE", 1e9)


def test_int8_matrices_stay_int8(theirs, few_bits):
    forward, model = OpenVinoForward(quantized(to_int8), LENGTH), quantized(to_int8)
    tokens, span = list(range(40)), [Span(0, 40, [0, 1])]
    wanted = list(range(40))
    found = forward(tokens, span, wanted, pages_of(forward))
    with torch.inference_mode():
        exact = model(torch.tensor([tokens]), torch.arange(40)[None])[0].numpy()
    dense = theirs(tokens, span, wanted, pages_of(theirs))

    def error(logits):
        return np.square(logits - dense).mean() / np.square(dense).mean()

    assert 0 < error(found) < 1.5 * error(exact) + 1e-4, "no further from the dense model than our int8 is"


@needs_openvino
def test_what_it_cannot_decode_is_refused(few_bits):
    with pytest.raises(UsageError, match="is a Gpt2"):
        OpenVinoForward(Gpt2(Shape(61, 64, 1, 4, 4, 96), LENGTH), LENGTH)
    with pytest.raises(UsageError, match="no plain one of Llama"):
        OpenVinoForward(net(Shape(61, 64, 2, 4, 2, 96, experts=2)), LENGTH)
    with pytest.raises(UsageError, match="a matrix is int4"):
        OpenVinoForward(quantized(to_int4), LENGTH)


def test_matrices_whose_kernel_is_float32_are_dense(monkeypatch, theirs):
    monkeypatch.setattr(kernels, "_known", {})
    monkeypatch.setattr(kernels, "PATIENCE", 0.0)
    model, span = quantized(to_int4), [Span(0, 20, [0, 1])]
    forward, tokens = OpenVinoForward(model, LENGTH), list(range(20))
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]), torch.arange(20)[None])[0, -1].numpy()
    np.testing.assert_allclose(forward(tokens, span, [19], pages_of(forward))[0], expected, rtol=1e-3, atol=1e-3)


@needs_openvino
def test_its_maker_is_told_nothing():
    code = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] == 'openvino_telemetry': raise SystemExit('openvino_telemetry is imported')\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from gyral.model.decoding.openvino import _package\n"
        "print(_package().__version__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stdout[0].isdigit(), done.stderr


def test_int8_pages_are_refused(theirs):
    shape = theirs.shape
    pages = Pages(4, shape.depth, shape.kv_heads, shape.head_width, True, theirs.page)
    with pytest.raises(UsageError, match="they are int8"):
        theirs([1], [Span(0, 1, [0])], [0], pages)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match="not installed") as raised:
        OpenVinoForward(net(), LENGTH)
    assert raised.value.hint.startswith("pip install 'gyral[openvino]'")
