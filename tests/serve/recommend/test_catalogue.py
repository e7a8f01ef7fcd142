"""Files about objects, as people have them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gyral.errors import ConfigError
from gyral.serve.recommend.catalogue import Catalogue


def test_columns_come_in_the_order_of_codes_whatever_the_file_lacks_or_has_twice(tmp_path):
    path = tmp_path / "objects.csv"
    path.write_text("object,brand,added\n007,a,2026-05-01T12:00:00Z\nx,b,\nzz,c,2026-05-02\n007,d,2026-01-01\n")
    made = Catalogue(["x", "unknown", "007"], path)
    values, numbers = made.column("brand")
    assert values.tolist() == [numbers["b"], -1, numbers["a"]]  # of two rows the first
    assert made.added_us().tolist() == [-1, -1, 1_777_636_800_000_000]
    assert made.column("object")[0].tolist() == [0, 1, 2]


def test_parquet_with_numbers_for_names_and_values(tmp_path):
    pq.write_table(pa.table({"object": [5, 6], "price": [1.5, None]}), tmp_path / "o.parquet")
    values, numbers = Catalogue(["6", "5"], tmp_path / "o.parquet").column("price")
    assert values.tolist() == [-1, numbers["1.5"]]


@pytest.mark.parametrize("text", ["", "name,brand\na,b\n", "object,added\na,soon\n"])
def test_what_cannot_be_read_is_told(tmp_path, text):
    path = tmp_path / "objects.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Catalogue(["a"], path).added_us()
    assert str(path) in str(caught.value)
