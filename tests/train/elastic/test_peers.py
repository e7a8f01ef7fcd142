"""Sums over links against numpy's: of every float type, with any number of members, and rounded where the wire is bf16."""

import threading

import numpy as np
import pytest
import torch

from gyral.engine.listening import Listener
from gyral.train.elastic.flat import Flat, Layout
from gyral.train.elastic.messages import Epoch, Peer, Stand
from gyral.train.elastic.peers import Peers, Subtree
from gyral.train.elastic.tree import Node

SECRET = b"of the test"


def reduced(vectors, is_narrow=False):
    """What each member ends with, and the bytes that one of them moved; each has one leaf."""
    count = len(vectors)
    listeners = [Listener(SECRET) for _ in range(count)]
    members = [Peer(str(at), f"member {at}", each.host, each.port) for at, each in enumerate(listeners)]
    epoch, found, errors = Epoch(1, members, Stand(), "0", []), {}, []

    def member(at):
        try:
            peers = Peers(
                epoch, str(at), listeners[at], SECRET, timeout_s=20.0, is_over=lambda: "", on_wait=lambda _: None, earlier={},
                is_narrow=is_narrow,
            )  # fmt: skip
            total, before = np.empty_like(vectors[at]), peers.moved
            said = peers.reduce(3, [Subtree(Node(0, at), vectors[at].copy(), {"": float(at)})], count, total)
            found[at] = total, said.sums[""], peers.moved - before
            peers.close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=member, args=[at]) for at in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    for each in listeners:
        each.close()
    assert not errors
    return [found[at] for at in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sum_is_that_of_numpy(count, dtype):
    vectors = [np.random.default_rng(at).standard_normal(1001).astype(dtype) for at in range(count)]
    for total, loss, _ in reduced(vectors):
        assert total.dtype == dtype and loss == sum(range(count))
        assert np.abs(total - sum(vectors)).max() <= 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("count", [2, 3])
def test_the_wire_bf16_moves_half_the_bytes_and_leaves_all_equal(count):
    vectors = [np.random.default_rng(at).standard_normal(30_000).astype(np.float32) for at in range(count)]
    vectors[0][7] = np.nan
    wide, narrow = reduced(vectors), reduced(vectors, is_narrow=True)
    assert narrow[0][2] / wide[0][2] == pytest.approx(0.5, abs=0.01)
    expected = sum(vectors)
    for total, _, _ in narrow:
        assert total.tobytes() == narrow[0][0].tobytes() and np.isnan(total[7])
        apart = np.delete(np.abs(total - expected), 7)
        assert 0 < apart.max() <= 2**-8 * count * np.nanmax(np.abs(vectors))


def test_gradients_of_every_type_are_added_in_the_widest():
    """Eight sums of one and a small part: in bf16 the small parts are lost, one by one."""
    halves, wide = torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16)), torch.nn.Parameter(torch.zeros(2, 2))
    layout = Layout([halves, wide])
    total = Flat(layout)
    total.begin()
    for _ in range(8):
        leaf = Flat(layout)
        leaf.begin()
        (halves.float().sum() * (1 + 2**-7) + (wide * 3.0).sum()).backward()
        leaf.widen()
        total.vector += leaf.vector
    assert layout.dtype == torch.float32 and total.vector.tolist() == [8 * (1 + 2**-7)] * 3 + [24.0] * 4
    total.give()
    assert (
        halves.grad.dtype == torch.bfloat16 and halves.grad.tolist() == [8.0625] * 3 and wide.grad.tolist() == [[24.0] * 2] * 2
    )
    assert Layout([torch.zeros(1, dtype=torch.float64), halves]).dtype == torch.float64
