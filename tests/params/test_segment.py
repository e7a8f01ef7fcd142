import io

import numpy as np
import pytest
import xxhash

from gyral.params import segment_kernel as kernel
from gyral.params.records import Changes, Records
from gyral.params.segment import ENTRY, FOOT, Damaged, Encoder, File, changes_of, damaged_in, decode, views
from gyral.params.spec import TableSpec


def file_of(data: bytes) -> File:
    held = memoryview(data)

    def read_into(buffer, at):
        buffer[:] = held[at : at + len(buffer)]

    return File("cut-0000000000000003.delta", len(data), read_into, lambda: None)


def random_changes(spec, rng, buckets, counters=0) -> Changes:
    counts, gone = rng.integers(0, 4, len(buckets)), rng.integers(0, 3, len(buckets))
    starts, gone_starts = np.cumsum([0, *counts], dtype=np.int64), np.cumsum([0, *gone], dtype=np.int64)
    records = Records(
        rng.integers(-(2**63), 2**63 - 1, starts[-1], dtype=np.int64),
        rng.integers(0, 2**32, starts[-1], dtype=np.uint32),
        rng.integers(0, 256, (starts[-1], spec.body_bytes), dtype=np.uint8),
    )
    gone_keys = rng.integers(-(2**63), 2**63 - 1, gone_starts[-1], dtype=np.int64)
    held = rng.integers(0, 256, (len(buckets), counters), dtype=np.uint8)
    return Changes(np.array(buckets, np.uint16), records, starts, gone_keys, gone_starts, held)


def small_file(rng) -> tuple[bytes, list[TableSpec], list[Changes]]:
    specs = [TableSpec("items", 3), TableSpec("users", 5, dtype="int8", admit_count=2)]
    changes = [random_changes(specs[0], rng, [1, 4, 9]), random_changes(specs[1], rng, [0, 9], counters=7)]
    out = io.BytesIO()
    encoder = Encoder(specs, out.write)
    for table, each in enumerate(changes):
        encoder.add(table, kernel.CUT, each, np.arange(1, len(each.buckets) + 1), 2)
    encoder.finish(
        base=False, number=3, epoch=2, first=0, last=10, event_s=5.0, acknowledged_s=7.0, workers=np.array([0, 3]),
        applied_at=np.array([1, 4]), applied=np.array([[1, 2], [3, 4]]), versions=np.arange(20).reshape(2, 10), notes=b"notes",
    )  # fmt: skip
    return out.getvalue(), specs, changes


@pytest.mark.parametrize("words", [0, 1, 3, 4, 5, 8, 37])
def test_the_checksum_is_xxh64(words):
    data = np.random.default_rng(words).integers(0, 2**64, words + 2, dtype=np.uint64)
    assert kernel.xxh64(data, 1, words + 1) == xxhash.xxh64_intdigest(data[1 : words + 1].tobytes())


def test_a_file_comes_back_as_it_was_written():
    data, specs, changes = small_file(np.random.default_rng(0))
    part = decode(file_of(data))
    assert part.specs == tuple(specs) and (part.number, part.epoch, part.first, part.last, part.base) == (3, 2, 0, 10, False)
    assert (part.event_s, part.acknowledged_s, part.notes, part.workers.tolist()) == (5.0, 7.0, b"notes", [0, 3])
    assert part.applied.tolist() == [[1, 2], [3, 4]] and part.versions[1].tolist() == list(range(10, 20))
    assert (ENTRY.itemsize, FOOT.itemsize) == (56, 104)
    for table, each in enumerate(changes):
        entries = part.entries[part.entries["table"] == table]
        got = changes_of(part, entries, bytearray(data))
        for mine, theirs in zip([*each[:1], *each.upserts, *each[2:]], [*got[:1], *got.upserts, *got[2:]], strict=True):
            assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs)


def test_every_flipped_byte_is_found_and_names_its_bucket():
    data, _, _ = small_file(np.random.default_rng(1))
    whole = decode(file_of(data))
    in_segments = 0
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << at % 8
        try:
            part = decode(file_of(bytes(broken)))
        except Damaged as error:
            assert "cut-0000000000000003" in str(error) and "hint" in str(error)
            continue
        bad = damaged_in(part, part.entries, views(broken)[0])
        assert bad.sum() == 1
        entry = whole.entries[bad][0]
        assert entry["offset"] <= at
        in_segments += 1
    assert in_segments == tail_of(data) - 16


def tail_of(data: bytes) -> int:
    return int(np.frombuffer(data[-FOOT.itemsize :], FOOT)["tail"][0])


def test_every_cut_is_found():
    data, _, _ = small_file(np.random.default_rng(2))
    for size in range(len(data)):
        with pytest.raises(Damaged, match=r"cut short|checksum"):
            decode(file_of(data[:size]))
