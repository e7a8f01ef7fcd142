import numpy as np
import pytest

from gyral.curate.near.spill import Column, Spill


@pytest.mark.parametrize("memory_bytes", [0, 1_000, 1 << 30])
def test_a_partition_is_its_slices_of_all_runs(tmp_path, memory_bytes):
    rng = np.random.default_rng(1)
    spill = Spill(tmp_path, "x", (np.uint64, np.float32), memory_bytes)
    expected = {part: ([], []) for part in range(4)}
    for _ in range(20):
        sizes = rng.integers(0, 9, 4)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        keys, values = rng.integers(0, 1 << 62, starts[-1], dtype=np.uint64), rng.random(starts[-1]).astype(np.float32)
        spill.add(starts, keys, values)
        for part in range(4):
            expected[part][0].extend(keys[starts[part] : starts[part + 1]].tolist())
            expected[part][1].extend(values[starts[part] : starts[part + 1]].tolist())
    for part in range(4):
        assert tuple(column.tolist() for column in spill.read(part)) == expected[part]
    assert spill.num_records == sum(len(keys) for keys, _ in expected.values())
    assert bool(list(tmp_path.iterdir())) == (memory_bytes < 1 << 30)
    spill.close()
    assert list(tmp_path.iterdir()) == []


def test_nothing_was_added(tmp_path):
    assert [column.dtype for column in Spill(tmp_path, "x", (np.uint64, np.float32), 0).read(0)] == [np.uint64, np.float32]
    assert Column(tmp_path / "y", np.uint64, 2, 0).open().shape == (0, 2)


@pytest.mark.parametrize("memory_bytes", [0, 200, 1 << 30])
def test_a_column_is_what_was_added(tmp_path, memory_bytes):
    column, rows = Column(tmp_path / "y", np.int64, 2, memory_bytes), np.arange(200).reshape(-1, 2)
    for begin in range(0, 100, 7):
        column.add(rows[begin : begin + 7])
    assert np.array_equal(column.open(), rows)
    column.add(rows[:3])
    assert np.array_equal(column.open(), np.concatenate([rows, rows[:3]]))
    column.close()
    assert list(tmp_path.iterdir()) == []
