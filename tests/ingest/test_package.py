"""Package sources, against the real pip, npm and apt with indexes of our own on this machine."""

import base64
import gzip
import hashlib
import http.server
import io
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile

import pyarrow as pa
import pytest

from gyral.errors import InputError
from gyral.ingest import sources
from gyral.packages import fetch as package
from gyral.packages.archives import read_member
from gyral.packages.fetch import MANAGERS

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
        ("pip:--version==1!/x.csv", "not a package source"),
        ("npm:--version@1!/x.csv", "not a package source"),
        ("npm:shopdata@latest!/x.csv", "not a package source"),
        ("npm:../x@1.0!/x.csv", "not a package source"),
        ("apt:-o=Dir::x!/x.csv", "not a package source"),
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
        package._run([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, MANAGERS["pip"], "x==1", notes.append)
    assert len(notes) >= 3 and "so far" in notes[0]


def tarball(prefix, mode="w:gz"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name in (f"{prefix}{MEMBER}", f"{prefix}other.csv"):
            member = tarfile.TarInfo(name)
            member.size = len(BODY)
            archive.addfile(member, io.BytesIO(BODY))
    return out.getvalue()


def deb(data, ending):
    parts = {"debian-binary": b"2.0\n", "control.tar.gz": tarball("./"), f"data.tar{ending}": data}
    body = b"!<arch>\n"
    for name, part in parts.items():
        body += f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(part):<10}`\n".encode() + part + b"\n" * (len(part) % 2)
    return body


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".zst"])
def test_debian_packages_in_every_compression(tmp_path, ending):
    plain = tarball("./", "w")
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
    pack[".zst"] = lambda data: pa.compress(data, "zstd", asbytes=True)
    path = tmp_path / "shopdata.deb"
    path.write_bytes(deb(pack[ending](plain), ending))
    assert read_member(path, MEMBER) == read_member(path, f"./{MEMBER}") == BODY
    with pytest.raises(InputError) as caught:
        read_member(path, "none.csv")
    assert MEMBER in caught.value.hint and "other.csv" in caught.value.hint


@pytest.mark.parametrize("name", ["x.whl", "x.tgz", "x.deb"])
@pytest.mark.parametrize("body", [b"", b"garbage", b"!<arch>\ngarbage" + b" " * 80, b"\x1f\x8b\x08garbage"])
def test_a_damaged_package_is_told(tmp_path, name, body):
    (tmp_path / name).write_bytes(body)
    with pytest.raises(InputError, match="cannot be opened"):
        read_member(tmp_path / name, MEMBER)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry of one package for the real npm."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    body = tarball("package/")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            dist = {
                "tarball": f"http://127.0.0.1:{server.server_port}/{name}.tgz",
                "shasum": hashlib.sha1(body).hexdigest(),
                "integrity": "sha512-" + base64.b64encode(hashlib.sha512(body).digest()).decode(),
            }
            version = {"name": name, "version": "1.0.0", "dist": dist}
            told = json.dumps({"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}).encode()
            known = {f"/{name}": told, f"/{name.replace('/', '%2f')}": told, f"/{name}.tgz": body}
            answer = known.get(self.path)
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write(answer or b"{}")

        def log_message(self, *_):
            pass

    name = "@gyral/shopdata"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("GYRAL_CACHE", str(tmp_path / "cache"))
    yield name
    server.shutdown()
    thread.join()
    server.server_close()


def test_npm_packages(registry, tmp_path):
    source = open_source(f"npm:{registry}@1.0.0!/{MEMBER}", tmp_path)
    assert source.columns == ["subject", "object", "event_time"] and source.digest == hashlib.sha256(BODY).hexdigest()
    assert open_source(f"npm:{registry}@1.0.0!/package/{MEMBER}", tmp_path).digest == source.digest
    with pytest.raises(InputError, match="npm could not fetch"):
        open_source(f"npm:{registry}@2.0.0!/{MEMBER}", tmp_path)


@pytest.fixture
def repository_of_debs(tmp_path, monkeypatch):
    """A repository of one package for the real apt, with lists and settings of its own."""
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is not installed")
    folder = tmp_path / "debs"
    for each in (folder, tmp_path / "lists/partial", tmp_path / "archives/partial", tmp_path / "etc"):
        each.mkdir(parents=True)
    body = deb(lzma.compress(tarball("./", "w")), ".xz")
    (folder / "shopdata_1.0_all.deb").write_bytes(body)
    fields = {
        "Package": "shopdata", "Version": "1.0", "Architecture": "all", "Maintainer": "nobody", "Description": "x",
        "Filename": "./shopdata_1.0_all.deb", "Size": len(body), "SHA256": hashlib.sha256(body).hexdigest(),
    }  # fmt: skip
    (folder / "Packages").write_text("".join(f"{name}: {value}\n" for name, value in fields.items()))
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{folder} ./\n")
    settings = {
        "Dir::Etc::sourcelist": tmp_path / "sources.list", "Dir::Etc::sourceparts": "-", "Debug::NoLocking": "true",
        "Dir::State::lists": tmp_path / "lists", "Dir::Cache": tmp_path / "archives", "APT::Sandbox::User": "root",
    }  # fmt: skip
    (tmp_path / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    monkeypatch.setenv("GYRAL_CACHE", str(tmp_path / "cache"))
    done = subprocess.run(["apt-get", "update", "-qq"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_debian_packages_by_apt(repository_of_debs, tmp_path):
    for uri in (f"apt:shopdata!/{MEMBER}", f"apt:shopdata=1.0!/{MEMBER}"):
        assert open_source(uri, tmp_path).digest == hashlib.sha256(BODY).hexdigest()
    with pytest.raises(InputError, match="apt-get could not fetch `nothing-of-this-name`") as caught:
        open_source("apt:nothing-of-this-name!/x.csv", tmp_path)
    assert "apt-get update" in caught.value.hint and "Unable to locate" in caught.value.why


def test_a_package_manager_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("GYRAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="`npm` is not installed"):
        open_source("npm:shopdata@1.0.0!/x.csv", tmp_path)
