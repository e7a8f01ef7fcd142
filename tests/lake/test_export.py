import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gyral.errors import UsageError
from gyral.lake import export as module
from gyral.lake.export import export
from gyral.lake.table import Lake
from gyral.progress import Meter

from .test_commit import rows


def meter():
    return Meter("export", "rows", None, lambda *_: None)


@pytest.fixture
def snapshot(tmp_path):
    snapshot = Lake(tmp_path).open("quarantine")
    for number in range(5):
        snapshot = snapshot.commit(rows(7 * number, 7, number), {"p": number + 1})
    return snapshot


def test_all_rows_in_order_in_files_of_a_size(snapshot, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILE_ROWS", 10)
    assert export(snapshot, tmp_path / "out", None, meter()) == 35
    files = sorted((tmp_path / "out").iterdir())
    assert [pq.read_metadata(path).num_rows for path in files] == [10, 10, 10, 5]
    assert pa.concat_tables([pq.read_table(path) for path in files]).to_pylist() == snapshot.read().to_pylist()


def test_a_condition_and_nothing_that_fulfils_it(snapshot, tmp_path):
    assert export(snapshot, tmp_path / "some", "src_offset >= 3", meter()) == 14
    assert pq.read_table(tmp_path / "some")["src_offset"].to_pylist() == [3] * 7 + [4] * 7
    assert export(snapshot, tmp_path / "none", "src_offset > 99", meter()) == 0
    assert pq.read_table(tmp_path / "none").schema.names == snapshot.schema.names


def test_what_is_there_is_not_written_over_and_what_fails_leaves_nothing(snapshot, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        export(snapshot, tmp_path / "there", None, meter())
    with pytest.raises(UsageError, match="`--where no such column > 1` cannot be read"):
        export(snapshot, tmp_path / "bad", "no such column > 1", meter())
    assert not (tmp_path / "bad").exists() and not list(tmp_path.glob(".bad*"))


def test_from_the_command_line(shop, tmp_path):
    words = [sys.executable, "-m", "gyral", "show", "lake", "--root", shop.root, "--json"]
    done = subprocess.run(
        [*words, "--export", tmp_path / "out", "--where", "country = 'France'"], capture_output=True, text=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    table = pq.read_table(tmp_path / "out")
    assert told["rows"] == table.num_rows > 0 and set(table["country"].to_pylist()) == {"France"}
    assert subprocess.run([*words, "--where", "1 = 1"], capture_output=True).returncode == 2
