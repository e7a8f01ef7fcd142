"""Write a plug-in package: the template, with `my_plugin` replaced by the name that was asked for.

The template is a package that works, not text with holes: it is linted, typed and read like any other code here.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from pathlib import Path

from gyral import plugins
from gyral.errors import UsageError
from gyral.files import publish, staging_folder

TEMPLATE = Path(__file__).parent / "template"
NAME = re.compile(r"[a-z][a-z0-9_]{0,38}[a-z0-9]")
HOOKS = ("source", "stage", "family", "trainer", "page")
"""What the template brings, under its one name."""


def plugin(name: str, folder: Path) -> list[Path]:
    """Write the package into a folder, all of it or nothing.

    Parameters
    ----------
    name : of its four hooks; the package is `gyral-NAME`, its module `gyral_NAME`.
    folder : it may exist, if it is empty.

    Returns
    -------
    The files, relative to `folder`.

    Raises
    ------
    UsageError : the name cannot be one, or belongs to something; or the folder holds something.
    """
    check(name)
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise UsageError(f"`{folder}` {what}", hint=f"name another: `gyral new plugin {name} FOLDER`")
    written = []
    with staging_folder(folder.parent, folder.name) as staging:
        for path, text in _files(name):
            written.append(path)
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            (staging / path).write_text(text, encoding="utf-8")
        try:
            publish(staging, folder)
        except FileExistsError:
            raise UsageError(f"`{folder}` was made by somebody else just now", hint="name another folder") from None
    return written


def check(name: str) -> None:
    """Refuse a name that no hook could have, or that one has.

    Raises
    ------
    UsageError : as above; the hint says what a name looks like.
    """
    if not NAME.fullmatch(name) or not name.isidentifier() or keyword.iskeyword(name) or "__" in name:
        why = "it is a word of Python" if keyword.iskeyword(name) else ""
        hint = "small letters, digits and single `_`, a letter first, 2 to 40 of them: `weather`, `shop_floor`"
        raise UsageError(f"`{name}` cannot be the name of a plug-in", why=why, hint=hint)
    taken = [kind for kind in HOOKS if name in plugins.names(kind)]
    if taken:
        raise UsageError(f"there is a {taken[0]} `{name}` already", hint="choose another name, or take that package away")


def _files(name: str) -> Iterator[tuple[Path, str]]:
    """The template's files under the name, in order; what Python or an editor left beside them stays."""
    words = {"my_plugin": name, "my-plugin": name.replace("_", "-"), "My plugin": name.replace("_", " ").capitalize()}
    for path in sorted(TEMPLATE.rglob("*")):
        inside = path.relative_to(TEMPLATE)
        if path.is_file() and path.suffix in (".py", ".toml", ".md", ".txt"):
            yield Path(_renamed(str(inside), words)), _renamed(path.read_text(encoding="utf-8"), words)


def _renamed(text: str, words: dict[str, str]) -> str:
    return re.sub("|".join(words), lambda match: words[match.group()], text)
