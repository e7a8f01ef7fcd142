"""The guides and the README run as they stand."""

import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from gyral.errors import InputError
from gyral.packages.fetch import fetch

from .. import verbs

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted(["operations.md", "security.md", *(f"guides/{path.name}" for path in (ROOT / "docs" / "guides").glob("*.md"))])
VERBS = {"loop", "ingest", "curate", "train", "compress", "serve", "show", "dash", "doctor", "erase", "eval", "bench serve"}
VERBS |= {"bench alike", "law fit", "law allocate", "law predict", "law mixture", "law import"}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path):
    return FENCE.findall((ROOT / path).read_text(encoding="utf-8"))


@pytest.fixture
def commands():
    """Folders that come first on the path of a shell: this environment's `gyral` is there."""
    return [Path(sys.executable).parent]


@pytest.fixture
def forked(commands, tmp_path_factory):
    """A `gyral` that is forked comes before it: dozens of commands, each of which would load torch for three seconds."""
    commands.insert(0, verbs.command(tmp_path_factory.mktemp("bin")))


@pytest.fixture
def shell(tmp_path, commands):
    """Run a block as a user would; servers stop at the end."""
    environment = {**os.environ, "PATH": ":".join([*map(str, commands), os.environ["PATH"]]), "GYRAL_NO_PROGRESS": "1"}
    servers = []

    def run(text):
        text = text.replace("DATA/", f"{ROOT / 'data'}/")
        if text.rstrip().endswith("&"):
            servers.append(subprocess.Popen(["bash", "-c", "exec " + text.strip().rstrip("&")], cwd=tmp_path, env=environment))
            _wait(re.search(r"(?:--port |:)(\d+)", text).group(1))
            return None
        return subprocess.run(["bash", "-ec", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)

    yield run
    for server in servers:
        server.terminate()
        server.wait(20)


def _wait(port):
    deadline = time.monotonic() + 120  # kernels are compiled, beside other tests
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_runs_from_top_to_bottom(guide, forked, shell, tmp_path):
    if guide == "guides/curate.md":
        try:
            fetch("apt:gnome-user-docs", print)
        except InputError as error:
            pytest.skip(f"its packages cannot be fetched: {error.what}")
    ran = 0
    for language, text in blocks(f"docs/{guide}"):
        if language == "sh":
            done = shell(text)
            assert done is None or done.returncode == 0, f"{text}\n{done.stderr}"
        elif language == "toml":
            (tmp_path / "gyral.toml").write_text(text)
        elif language == "python":
            done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, cwd=tmp_path)
            assert done.returncode == 0 and len(done.stdout.splitlines()) == 3, done.stderr
        elif language == "console":
            command, _, told = text.partition("\n")
            done = shell(command.removeprefix("$ "))
            assert (done.stdout + done.stderr).strip() == told.strip()
        ran += 1
    assert ran >= 6


@pytest.mark.slow
def test_the_readme_chain_of_verbs_runs(shell, tmp_path):
    (tmp_path / "data").symlink_to(ROOT / "data")
    chain = next(text for language, text in blocks("README.md") if language == "sh" and "gyral ingest" in text)
    lines = [line.partition("#")[0].strip() for line in chain.strip().splitlines()]
    for line in lines:
        done = shell(f"{line} &" if line.startswith("gyral serve") else line)
        assert done is None or done.returncode == 0, done.stderr
    own = next(text for language, text in blocks("README.md") if language == "sh" and "purchases.csv" in text).splitlines()
    rows = [f"c{row % 7},p{row * row % 11},{1_600_000_000 + 1000 * row}" for row in range(300)]
    (tmp_path / "purchases.csv").write_text("\n".join(["customer,product,when", *rows]))
    done = shell(own[0].replace("--budget 3m", "--budget 5s"))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_readme_loops_of_pages_and_pictures_run(forked, shell):
    """With one turn, of a few steps: what they learn in minutes is not tested here, that they turn is."""
    block = next(text for language, text in blocks("README.md") if language == "sh" and "--family vision" in text)
    loops = [line.partition("   #")[0].strip() for line in block.splitlines() if line.startswith("gyral loop --family")]
    assert len(loops) == 2
    for line in loops:
        try:
            for package in re.findall(r"(?:apt|npm):[^ ']+", line):
                fetch(package, print)
        except InputError as error:
            pytest.skip(f"a package cannot be fetched: {error.what}")
        small = "--set train.steps=2 --set lm.depth=1 --set vision.depth=1 --set lm.length=64"
        done = shell(f"{re.sub('--turns [0-9]+', '--turns 1', line)} {small}")
        assert done.returncode == 0 and "closing the loop" in done.stdout, done.stderr


def test_every_option_the_documents_name_exists():
    pages = [ROOT / "README.md", *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent.name != "reference")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    helps = {}
    verbs_named = {verb.strip() for verb in re.findall(r"gyral ((?:law |bench )?[a-z]+)\b", text)} & VERBS
    for verb in verbs_named:
        command = [sys.executable, "-m", "gyral", *verb.split(), "--help"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
        helps[verb] = set(re.findall(r"--[a-z][a-z0-9-]*", told))
    assert helps.keys() >= {"loop", "ingest", "curate", "train", "compress", "serve", "show", "bench serve", "law fit"}
    for verb, options in re.findall(r"gyral ((?:law |bench )?[a-z]+)([^\n`|]*)", text):
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", options):
            assert verb not in helps or option in helps[verb], f"gyral {verb} has no {option}"
