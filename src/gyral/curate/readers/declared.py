"""The language that a source declares: in a folder's name, in an ending before the last, in an attribute of the root.

What the document says of itself wins over where it lies. The result is an ISO 639 code without region, `pt` for `pt_BR`, since
that is what a detector can be compared with. Of three-letter codes only those count that translators use and that have no
two-letter twin, because many words have three letters.
"""

from __future__ import annotations

import re
from functools import lru_cache


def _words(text: str) -> list[str]:
    return text.split()


_TWO = frozenset(
    _words(
        "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo es "
        "et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki "
        "kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no "
        "nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te "
        "tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu "
    )
)
_THREE = frozenset(
    _words(
        "ast ang bem bho brx ceb ckb crh csb doi dsb fil fur gsw hne hsb kab kok mai mjw mni mnw nan nap nds nqo nso pap sat "
        "scn szl tok tum vec wae yue zgh "
    )
)
_TAG = re.compile(r"([A-Za-z]{2,3})(?:[-_](?:[A-Za-z]{2}|[A-Za-z]{4}|[0-9]{3})){0,2}(?:\.[A-Za-z0-9-]{3,12})?(?:@[a-z]{3,10})?")
_HTML_LANG = re.compile(rb"<html\b[^>]{0,2000}?\s(?:xml:)?lang\s*=\s*[\"']?\s*([A-Za-z]{2,3})\b", re.IGNORECASE)
_XML_LANG = re.compile(rb"<[A-Za-z_][^<>]{0,2000}?\s(?:xml:)?lang\s*=\s*[\"']\s*([A-Za-z]{2,3})\b")
LOOK_BYTES = 2048


def language_code(tag: str | None) -> str | None:
    """`pt_BR`, `zh-Hans`, `de_DE.UTF-8` → `pt`, `zh`, `de`; None for what is no language's tag."""
    match = _TAG.fullmatch(tag.strip()) if tag else None
    if not match:
        return None
    code = match.group(1).lower()
    return code if code in _TWO or code in _THREE else None


@lru_cache(maxsize=65_536)
def _of_folder(folder: str) -> str | None:
    for name in reversed(folder.split("/")):
        if name == "C":
            return "en"
        code = language_code(name)
        if code:
            return code
    return None


def by_path(path: str) -> str | None:
    """Language by the path of a file: `manual.ja.html` before `ja/`, and the last folder that names one."""
    folder, _, name = path.rpartition("/")
    pieces = name.split(".")
    code = language_code(pieces[-2]) if len(pieces) > 2 else None
    return code or (_of_folder(folder) if folder else None)


def by_root(raw: bytes, media: str) -> str | None:
    """Language by the attribute `lang` of the first element: `<html lang>`, `xml:lang` of Mallard and DocBook."""
    if media == "text":
        return None
    match = (_HTML_LANG if media == "html" else _XML_LANG).search(raw, 0, LOOK_BYTES)
    return language_code(match.group(1).decode()) if match else None
