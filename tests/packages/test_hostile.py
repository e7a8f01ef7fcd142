"""Archives that somebody made to break their reader: read, or refused with their name, in little memory."""

import gzip
import io
import lzma
import tarfile
import tracemalloc
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.curate.readers import tar
from gyral.errors import InputError
from gyral.packages import archives, unpacking
from gyral.packages.archives import read_member

from .test_unpacking import FILES, deb_of, package, tar_of


def wheel():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("usr/share/a.page", b"page a" * 50)
    return out.getvalue()


TAR = tar_of([*FILES, ("./" + "n" * 150, b"long")])
SEEDS = {".whl": (wheel(), bytes), ".tgz": (TAR, gzip.compress), ".deb": (deb_of(lzma.compress(TAR), ".xz"), bytes)}
EDITS = st.lists(st.tuples(st.integers(0, 5_000), st.binary(max_size=9), st.integers(0, 9)), min_size=1, max_size=3)


@given(ending=st.sampled_from(list(SEEDS)), edits=EDITS)
@settings(max_examples=150)
def test_whatever_bytes_an_archive_has_it_is_read_or_refused(tmp_path_factory, ending, edits):
    body, pack = SEEDS[ending]
    changed = bytearray(body)
    for at, put, cut in edits:
        at %= len(changed) or 1
        changed[at : at + cut] = put
    path = tmp_path_factory.getbasetemp() / f"a{ending}"
    path.write_bytes(pack(bytes(changed)))
    try:
        read_member(path, "usr/share/a.page")
    except InputError as error:
        assert path.name in error.what


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_would_take_the_memory_is_refused(tmp_path, kind):
    """A name of 300 MB, which `tarfile` reads whole, or as much of it as there is."""
    entry = tarfile.TarInfo("./long")
    entry.type, entry.size = kind, 300 << 20
    with gzip.open(tmp_path / "a.tgz", "wb") as file:
        file.write(entry.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20))
    tracemalloc.start()
    for read in (lambda path: read_member(path, "a"), lambda path: unpacking._unpack(path, tmp_path)):
        with pytest.raises(InputError, match=r"a\.tgz") as refused:
            read(tmp_path / "a.tgz")
        assert "a header of 314,572,800 bytes" in refused.value.why
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


def test_members_beyond_number_are_refused_and_none_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_ENTRIES", 2_000)
    folders = [(f"./{number}", (tarfile.DIRTYPE, "")) for number in range(2_100)]
    path = package(tmp_path, "a.tgz", gzip.compress(tar_of(folders))).path
    for read in (lambda: read_member(path, "a"), lambda: unpacking._unpack(path, tmp_path)):
        with pytest.raises(InputError) as refused:
            read()
        assert "more than 2,000 members" in refused.value.why


def test_a_member_that_grows_out_of_all_proportion_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(2 << 20))
    with pytest.raises(InputError, match="cannot be opened"):
        read_member(package(tmp_path, "a.whl", out.getvalue()).path, "a")


@pytest.mark.parametrize("length", [b"9" * 5_000, b"0", b"99 path=x", b""])
def test_a_pax_header_whose_length_lies_costs_no_shard(length):
    """Python converts no number of more than 4,300 digits."""
    described = length + b" path=other\n"
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, len(described)
    body = entry.tobuf() + described + bytes(-len(described) % 512) + tar_of([("1.txt", b"said")])
    assert [(each.name, each.data) for each in tar.members(io.BytesIO(body), 1 << 30)] == [("1.txt", b"said")]
