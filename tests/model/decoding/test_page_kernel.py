"""Attention over pages against PyTorch's, and that a row knows nothing of the others."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gyral.model.decoding.page_kernel import PAGE, attend, gather, write


class Case:
    """Sequences of given lengths, their pages strewn over the memory, and one query each."""

    def __init__(self, lengths, heads, kv_heads, width, kind=np.float32):
        random = np.random.default_rng(sum(lengths))
        pages = [-(-length // PAGE) for length in lengths]
        order = random.permutation(sum(pages) + 3).astype(np.int32)
        self.heads, self.kv_heads, self.width, self.lengths = heads, kv_heads, width, lengths
        self.keys = np.zeros((len(order), kv_heads, width, PAGE), kind)
        self.values = np.zeros((len(order), kv_heads, PAGE, width), kind)
        self.scales = np.zeros((2, len(order), kv_heads, PAGE), np.float32)
        self.tables = np.zeros((len(lengths), max(pages)), np.int32)
        self.texts = [
            random.standard_normal((n, (heads + 2 * kv_heads) * width)).astype(np.float32) * (1 + at)
            for at, n in enumerate(lengths)
        ]
        for line, (text, num) in enumerate(zip(self.texts, pages, strict=True)):
            self.tables[line, :num], order = order[:num], order[num:]
            places = np.arange(len(text))
            slots = self.tables[line, places // PAGE].astype(np.int64) * PAGE + places % PAGE
            write(text, slots, heads, self.keys, self.values, self.scales)
        self.joined = np.stack([text[-1] for text in self.texts])

    def own(self, rows=None):
        rows = np.arange(len(self.lengths)) if rows is None else np.array(rows)
        out = np.full((len(self.lengths), self.heads * self.width), np.nan, np.float32)
        seen, shares = np.array(self.lengths)[rows], np.full((self.heads, self.tables.shape[1] * PAGE), np.nan, np.float32)
        attend(self.joined, rows, rows, self.tables, seen, self.keys, self.values, self.scales, shares, out)
        return out

    def expected(self):
        found = []
        for text in self.texts:
            heads = torch.from_numpy(text).view(len(text), -1, self.width).transpose(0, 1)[None].double()
            query, key, value = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
            seen = F.scaled_dot_product_attention(query[:, :, -1:], key, value, enable_gqa=True)
            found.append(seen.reshape(-1).numpy())
        return np.stack(found)


@pytest.mark.parametrize("heads, kv_heads, width", [(4, 2, 8), (9, 3, 64), (2, 2, 12)])
def test_it_is_attention(heads, kv_heads, width):
    case = Case([1, 15, 16, 17, 100], heads, kv_heads, width)
    np.testing.assert_allclose(case.own(), case.expected(), rtol=1e-5, atol=1e-5)


def test_int8_loses_little():
    exact, rounded = Case([1, 40, 200], 4, 2, 64), Case([1, 40, 200], 4, 2, 64, np.int8)
    error = np.abs(rounded.own() - exact.expected()).max(axis=1) / np.abs(exact.expected()).max(axis=1)
    assert error.max() < 0.02
    assert rounded.keys.nbytes * 4 == exact.keys.nbytes


def test_a_row_is_the_same_to_the_last_bit_whoever_is_beside_it():
    case = Case([30, 5, 77, 64], 4, 2, 8)
    together = case.own()
    for row in range(4):
        assert (case.own([row])[row] == together[row]).all()


def test_what_is_gathered_is_what_was_written():
    case = Case([37], 4, 2, 8)
    key, value = np.zeros((2, 37, 8), np.float32), np.zeros((2, 37, 8), np.float32)
    gather(case.tables[0], 37, case.keys, case.values, case.scales, key, value)
    heads = case.texts[0].reshape(37, 8, 8).transpose(1, 0, 2)
    assert (key == heads[4:6]).all()
    assert (value == heads[6:]).all()
