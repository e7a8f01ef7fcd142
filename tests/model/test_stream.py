"""Documents as a stream: every byte is foretold once, from its own document alone, and copies never lie on both sides."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gyral.model.nets.llama import Llama, Shape
from gyral.model.stream import Text, digest_of, kept_aside, rows_of
from gyral.model.task import seeded
from gyral.model.tasks import next_token
from gyral.model.tasks.next_token import bits_of, inputs_of

TEXTS = [b"The gyre turns.", b"a", b"", b"What it carries comes back another day, and is written here: \xc3\xa4.", b"zz"]


def small(length=16):
    return seeded(3, lambda: Llama(Shape(257, 32, 2, 4, 2, 64))).eval()


def alone(model, text):
    """Bits of one text with its end, a document by itself, position by position."""
    tokens = [256, *text, 256]
    with torch.no_grad():
        logits = model(torch.tensor([tokens[:-1]]), torch.arange(len(tokens) - 1)[None])[0].double()
    nats = -torch.log_softmax(logits, -1)[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]
    return float(nats.sum()) / math.log(2)


def test_bits_are_those_of_each_text_by_itself():
    model = small()
    want = [alone(model, text) for text in TEXTS]
    got = bits_of(model, Text(TEXTS), 128, 257)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 3), (16, 5), (8, 1), (200, 200)])
def test_every_token_is_counted_once_whatever_the_windows(length, stride):
    stream = Text(TEXTS)
    seen = np.zeros(len(stream), int)
    for tokens, documents, counted in stream.windows(length, stride, 2):
        assert tokens.shape == documents.shape == (len(tokens), length + 1)
        for row, begin in enumerate(counted):
            for at in np.flatnonzero(begin):
                body = b"".join(text + b"\xff" for text in TEXTS)
                found = [place for place in range(len(stream)) if seen[place] == 0][:1]
                if found:
                    place = found[0]
                    is_end = place + 1 in np.cumsum([len(text) + 1 for text in TEXTS])
                    assert tokens[row, at + 1] == (256 if is_end else body[place])
                    seen[place] += 1
    assert (seen == 1).all()


def test_a_window_is_no_longer_than_what_there_is_and_logits_are_made_in_parts(monkeypatch):
    """SmolLM2's window of 8,192 once cost 6.4 GB for a sentence."""
    model, seen = small(), []
    model.logits.register_forward_hook(lambda module, given, found: seen.append(found.shape[1]))
    whole = bits_of(model, Text([b"a sentence"]), 11, 257)
    np.testing.assert_allclose(bits_of(model, Text([b"a sentence"]), 8_192, 257), whole, rtol=1e-6)
    assert seen == [11, 11]
    monkeypatch.setattr(next_token, "EVALUATED_LOGITS", 4 * 257)
    np.testing.assert_allclose(bits_of(model, Text([b"a sentence"]), 8_192, 257), whole, rtol=1e-6)
    assert seen[2:] == [4, 4, 3]


def test_windows_that_overlap_know_more():
    torch.manual_seed(0)
    text = Text([bytes(torch.randint(97, 123, (400,)).tolist())])
    model = small()
    totals = [bits_of(model, text, 8, 257, stride=stride).sum() for stride in (8, 4, 1)]
    assert len({round(total, 3) for total in totals}) == 3  # the windows differ, and the sums are of all tokens in each


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=8), st.integers(1, 9))
def test_rows_hold_the_tokens_in_order(texts, length):
    stream = Text(texts)
    whole = [token for text in texts for token in (*text, 256)]
    number = stream.num_sequences(length)
    assert number == len(whole) // length
    tokens, documents = stream.sequences(np.arange(number), length)
    assert tokens[:, 1:].reshape(-1).tolist() == whole[: number * length]
    assert tokens[:, 0].tolist() == [256, *whole][: number * length : length]
    owner = [number for number, text in enumerate(texts) for _ in range(len(text) + 1)]
    assert documents[:, 1:].reshape(-1).tolist() == owner[: number * length]


def test_documents_of_a_row_do_not_see_each_other():
    """The loss of a packed row is the sum of its documents' alone; without the mask it is not."""
    model = small()
    whole = sum(alone(model, text) for text in TEXTS) * math.log(2)
    stream = Text(TEXTS)
    tokens, documents = stream.sequences(np.array([0]), len(stream))

    def nats(is_masked):
        batch = rows_of(tokens, documents, is_masked)
        with torch.no_grad():
            logits = model(*inputs_of(batch))
        return float(torch.nn.functional.cross_entropy(logits[0], batch["targets"][0], reduction="sum"))

    assert abs(nats(True) - whole) < 1e-3
    assert abs(nats(False) - whole) > 1e-2


def test_what_a_batch_holds_does_not_depend_on_its_rows():
    """Ranks of a pipeline agree on it before they see a row."""
    tokens, documents = Text([b"abcdefghij"]).sequences(np.array([0, 1]), 4)
    assert rows_of(tokens, documents)["documents"].tolist() == [[1] * 4] * 2
    assert "documents" not in rows_of(tokens, documents, is_masked=False)


@given(st.sets(st.binary(min_size=1, max_size=8), min_size=40, max_size=60), st.binary(min_size=9, max_size=12))
def test_documents_that_are_added_move_no_other(bodies, new):
    digests = [digest_of(body) for body in sorted(bodies)]
    before = kept_aside([*digests, digests[0]], 0.5)
    assert before[0] == before[-1]  # a copy is where the other is
    assert 0 < before.sum() < len(before)
    assert (kept_aside([digest_of(new), *digests], 0.5)[1:] == before[:-1]).all()


def test_of_two_documents_one_is_kept_aside():
    for number in range(50):
        digests = [digest_of(b"%d" % number), digest_of(b"other")]
        assert kept_aside(digests, 0.1).sum() == kept_aside(digests, 0.9999).sum() == 1


def test_about_the_share_is_kept_aside():
    found = kept_aside([digest_of(str(number).encode()) for number in range(4_000)], 0.1)
    assert 340 < found.sum() < 460


def test_text_is_held_as_one_byte_a_byte():
    assert Text([b"x" * 1_000_000])._tokens.nbytes == 1_000_001
