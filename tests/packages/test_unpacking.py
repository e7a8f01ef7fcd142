"""Packages unpacked: only regular files, only below the folder, bounded, whole or not at all."""

import io
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from gyral.errors import InputError
from gyral.packages import unpacking
from gyral.packages.fetch import Package


def tar_of(entries, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.linkname = content
                archive.addfile(entry)
    return out.getvalue()


def deb_of(data: bytes, ending: str) -> bytes:
    def member(name, body):
        return f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)

    return b"!<arch>\n" + member("debian-binary", b"2.0\n") + member("control.tar.gz", b"x") + member(f"data.tar{ending}", data)


def package(tmp_path: Path, name: str, body: bytes) -> Package:
    (tmp_path / name).write_bytes(body)
    return Package(tmp_path / name, "", tmp_path)


def found(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FILES = [("./usr/share/a.page", b"page a"), ("./usr/share/b.page", b"page b")]
PACKINGS = {
    ".xz": lzma.compress,
    ".gz": lambda body: __import__("gzip").compress(body),
    ".zst": lambda body: pa.compress(body, codec="zstd", asbytes=True),
    "": lambda body: body,
}


@pytest.mark.parametrize("ending", PACKINGS)
def test_debian_packages(tmp_path, ending):
    body = deb_of(PACKINGS[ending](tar_of(FILES)), ending)
    folder, digest = unpacking.unpack(package(tmp_path, "a.deb", body), lambda line: None)
    assert found(folder) == {"usr/share/a.page": b"page a", "usr/share/b.page": b"page b"}
    assert digest == __import__("hashlib").sha256(body).hexdigest() and digest[:16] in folder.name


def test_npm_and_wheel(tmp_path):
    folder, _ = unpacking.unpack(package(tmp_path, "a.tgz", tar_of([("package/x.json", b"{}")], "w:gz")), lambda line: None)
    assert found(folder) == {"package/x.json": b"{}"}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/b.txt", "b")
        link = zipfile.ZipInfo("a/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../out.txt", "no")
    folder, _ = unpacking.unpack(package(tmp_path, "a.whl", out.getvalue()), lambda line: None)
    assert found(folder) == {"a/b.txt": b"b"}


def test_nothing_leads_out(tmp_path):
    hostile = [
        ("../up.txt", b"no"),
        ("/abs.txt", b"no"),
        ("a/../../up2.txt", b"no"),
        ("link", (tarfile.SYMTYPE, "/etc")),
        ("link/passwd", b"no link to follow, a folder"),
        ("hard", (tarfile.LNKTYPE, "/etc/passwd")),
        ("device", (tarfile.CHRTYPE, "")),
        ("a\\b.txt", b"no"),
        ("x" * 300, b"no"),
        ("good.txt", b"good"),
        ("good.txt", b"the second"),
        ("good.txt/below", b"no"),
    ]
    inner = tmp_path / "cache"
    inner.mkdir()
    folder, _ = unpacking.unpack(package(inner, "a.tgz", tar_of(hostile, "w:gz")), lambda line: None)
    assert found(folder) == {"link/passwd": b"no link to follow, a folder", "good.txt": b"good"}
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert sorted(os.listdir(tmp_path)) == ["cache"]


def test_it_is_done_once_and_again_when_bytes_are_missing(tmp_path):
    given = package(tmp_path, "a.tgz", tar_of([("a", b"whole"), ("b", b"b")], "w:gz"))
    notes = []
    folder, _ = unpacking.unpack(given, notes.append)
    unpacking.unpack(given, notes.append)
    assert len(notes) == 1
    (folder / "a").write_bytes(b"who")
    unpacking.unpack(given, notes.append)
    assert len(notes) == 2 and found(folder)["a"] == b"whole"


def test_bombs_and_damage_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "FREE_BYTES", 1 << 20)
    bomb = package(tmp_path, "a.tgz", tar_of([("a", bytes(50 << 20))], "w:gz"))
    with pytest.raises(InputError, match="too much"):
        unpacking.unpack(bomb, lambda line: None)
    monkeypatch.setattr(unpacking, "MAX_ENTRIES", 5)
    many = package(tmp_path, "b.tgz", tar_of([(f"{number}", b"") for number in range(9)], "w:gz"))
    with pytest.raises(InputError, match="too much"):
        unpacking.unpack(many, lambda line: None)
    broken = package(tmp_path, "c.tgz", tar_of(FILES, "w:gz")[:60])
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpacking.unpack(broken, lambda line: None)
    no_deb = package(tmp_path, "d.deb", b"no ar")
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpacking.unpack(no_deb, lambda line: None)
    assert sorted(os.listdir(tmp_path)) == ["a.tgz", "b.tgz", "c.tgz", "d.deb"]
