import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.errors import InputError, NotFound
from gyral.params import strings
from gyral.params.strings import Names, key_of


def test_the_hash_is_that_of_the_standard_and_stays():
    assert key_of("85123A") == int.from_bytes(hashlib.blake2b(b"85123A", digest_size=8).digest(), "little", signed=True)
    assert (key_of(""), key_of("é")) == (-5426141060434712860, 3394012004367669963)


@given(st.lists(st.text(max_size=8), max_size=20))
def test_names_come_back(names):
    known = Names()
    keys = known.keys(names)
    assert keys.dtype == np.int64 and known.names(keys) == names and len(known) == len(set(names))
    assert known.keys(reversed(names)).tolist() == keys[::-1].tolist()


def test_the_dictionary_outlives_its_process(tmp_path):
    path = tmp_path / "names.jsonl"
    code = (
        f"from gyral.params.strings import Names; from pathlib import Path; Names(Path({str(path)!r})).keys(['a', 'b\\n', 'é'])"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with path.open("ab") as file:
        file.write(b'"half')
    names = Names(path)
    assert names.names(np.array([key_of("b\n"), key_of("é")])) == ["b\n", "é"] and len(names) == 3
    names.keys(["a", "half a name"])
    assert len(Names(path)) == 4 and path.read_bytes().count(b"\n") == 4


def test_a_collision_is_an_error_and_keeps_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(strings, "key_of", len)
    names = Names(tmp_path / "names")
    names.keys(["one"])
    for some in (["four", "two"], ["four", "five"]):
        with pytest.raises(InputError, match="the same 64 bits"):
            names.keys(some)
    assert len(names) == 1 and len(Names(tmp_path / "names")) == 1


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(NotFound, match="no name has the key 7"):
        Names().names(np.array([7]))
    (tmp_path / "names").write_text("3\n")
    with pytest.raises(InputError, match="names:1"):
        Names(tmp_path / "names")
