"""Package sources, against a real pip and a local index folder."""

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile

import pytest

from gyral.errors import InputError
from gyral.ingest import sources
from gyral.ingest.sources import package

notes = []


def open_source(uri, root):
    return sources.open_source(uri, root, notes.append)


MEMBER = "shopdata/events.csv"
BODY = b"subject,object,event_time\nu,i,2020-01-01\n"


@pytest.fixture
def index(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "shopdata-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, BODY)
        wheel.writestr("shopdata-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: shopdata\nVersion: 1.0\n")
        wheel.writestr("shopdata-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("shopdata-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("GYRAL_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_member_is_read_without_installing_and_fetched_once(index, tmp_path, monkeypatch):
    source = open_source(f"pip:shopdata==1.0!/{MEMBER}", tmp_path)
    assert source.name == "events" and source.columns == ["subject", "object", "event_time"]

    def refuse(*_args, **_kwargs):
        raise AssertionError("asked the index again")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    again = open_source(f"pip:shopdata==1.0!/{MEMBER}", tmp_path)
    assert again.digest == source.digest == hashlib.sha256(BODY).hexdigest()
    assert "shopdata" not in sys.modules


def test_a_digest_is_checked(index, tmp_path):
    wheel = (index / "shopdata-1.0-py3-none-any.whl").read_bytes()
    good = hashlib.sha256(wheel).hexdigest()
    assert open_source(f"pip:shopdata==1.0!/{MEMBER}#sha256={good}", tmp_path).size_bytes == len(BODY)
    with pytest.raises(InputError, match="not the file that was asked for"):
        open_source(f"pip:shopdata==1.0!/{MEMBER}#sha256={'0' * 64}", tmp_path)


@pytest.mark.parametrize(
    ("uri", "what"),
    [
        ("pip:shopdata==1.0!/shopdata/none.csv", "has no `shopdata/none.csv`"),
        ("pip:shopdata==9.9!/x.csv", "could not fetch"),
        ("pip:shopdata", "not a package source"),
        ("pip:shopdata==1.0;rm -rf /!/x.csv", "not a package source"),
    ],
)
def test_what_cannot_be_had_is_named(index, tmp_path, uri, what):
    with pytest.raises(InputError) as caught:
        open_source(uri, tmp_path)
    assert what in caught.value.what


def test_members_never_leave_the_cache(index, tmp_path):
    with zipfile.ZipFile(index / "shopdata-1.0-py3-none-any.whl", "a") as wheel:
        wheel.writestr("../../evil.csv", BODY)
    source = open_source("pip:shopdata==1.0!/../../evil.csv", tmp_path)
    assert package.cache_folder() in source.path.parents


def test_a_source_distribution_is_not_taken_because_pip_would_run_it(index, tmp_path):
    ran = tmp_path / "ran"
    setup = f"open({str(ran)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='evil', version='1.0')\n"
    with tarfile.open(index / "evil-1.0.tar.gz", "w:gz") as archive:
        for name, body in {"setup.py": setup, "PKG-INFO": "Metadata-Version: 1.0\nName: evil\nVersion: 1.0\n"}.items():
            member = tarfile.TarInfo(f"evil-1.0/{name}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body.encode()))
    with pytest.raises(InputError, match=r"could not fetch a wheel of `evil==1\.0`"):
        open_source("pip:evil==1.0!/evil-1.0/setup.py", tmp_path)
    assert not ran.exists()


def test_a_slow_fetch_is_told_and_then_given_up(index, tmp_path, monkeypatch):
    monkeypatch.setattr(package, "NOTE_EVERY_S", 0.05)
    monkeypatch.setattr(package, "TIMEOUT_S", 0.3)
    notes.clear()
    with pytest.raises(InputError, match=r"longer than 0\.3 s"):
        package._run([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, "x", "1", notes.append)
    assert len(notes) >= 3 and "so far" in notes[0]
