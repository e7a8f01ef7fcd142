#!/usr/bin/env python3
"""Hooks of the site, for mkdocs: its order is that of `docs/README.md`, and the leaderboard with its raw output is part of it.

Pages name files of the checkout where they stand. The leaderboard and its results come along; another file is named by its path
without a link, because the site does not hold it. Run by `scripts/docs`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)([^)\s]*)\)")
SHIM = re.compile(r"<script src=\"https://unpkg.com/[^>]*></script>")
WORKER = (ROOT / "docs" / "search_worker.js").read_text(encoding="utf-8")
HEADS = {"guides/": "Guides", "concepts/": "Concepts", "reference/": "Reference"}


def on_config(config: Any) -> Any:
    """The order of pages is that in which the first page names them."""
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    named = dict.fromkeys(target for _, target, _ in LINK.findall(text) if target.endswith(".md"))
    nav: list[Any] = [{"gyral": "README.md"}]
    for folder, head in HEADS.items():
        nav.append({head: [each for each in named if each.startswith(folder)]})
    for page in named:
        if not page.startswith((*HEADS, "../")):
            nav.append(page)
    config["nav"] = [*nav, {"Leaderboard": "benchmarks/README.md"}]
    return config


def on_files(files: Files, config: Any) -> Files:
    """The leaderboard and what it links."""
    for path in [ROOT / "benchmarks" / "README.md", *sorted((ROOT / "benchmarks" / "results").iterdir())]:
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".md" and path.parent.name == "results":
            continue  # truth of one benchmark, thousands of lines: named without a link
        files.append(File.generated(config, name, content=path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Any, files: Files, **_: Any) -> str:
    """Links as the site has them."""
    here = page.file.src_uri
    folder = posixpath.dirname(here if here.startswith("benchmarks/") else f"docs/{here}")

    def placed(found: re.Match[str]) -> str:
        text, target, rest = found.groups()
        if ":" in target:
            return found[0]
        inside = posixpath.normpath(posixpath.join(folder, target)).removeprefix("docs/")
        if files.get_file_from_path(inside) is None:
            return f"{text} (`{inside}`)" if text.strip("`") != inside else text
        return f"[{text}]({posixpath.relpath(inside, posixpath.dirname(here) or '.')}{rest})"

    return LINK.sub(placed, markdown)


def on_post_page(output: str, **_: Any) -> str:
    """With a script of this checkout in place of one that the theme would fetch, so that search works in files, too."""
    return SHIM.sub(lambda _: f"<script>{WORKER}</script>", output)


def on_post_template(output_content: str, **_: Any) -> str:
    """The same for the page of addresses that are not there."""
    return SHIM.sub(lambda _: f"<script>{WORKER}</script>", output_content)
