"""Mallard and DocBook → paragraphs of text, by the streaming parser of the standard library.

Blocks are separated by a blank line, items of a list and rows of a table by a line end; titles are paragraphs; markup inside a
line leaves its text; code keeps its lines. What is about a page and not of it (credits, licences, index entries) is left out.

Hostile XML: nothing outside the file is ever read, entities may give no more than `MOST_GROWTH` times the file, and nesting
ends at `MOST_DEPTH`; both stop the parser at once.
"""

from __future__ import annotations

from html.entities import html5
from typing import NamedTuple
from xml.parsers import expat

MOST_DEPTH = 512
MOST_GROWTH, FREE_CHARACTERS = 4, 1 << 16
AMPLIFICATION = 43
"""Expat's own limit on entities, `XML_ERROR_AMPLIFICATION_LIMIT_BREACH`, which Python names from 3.13 on."""


class Refused(Exception):
    """A file whose text cannot be had; the first argument is the reason."""


class Vocabulary(NamedTuple):
    """Names of elements by what they do to the text."""

    skip: frozenset[str]
    block: frozenset[str]
    lists: frozenset[str]
    code: frozenset[str]
    cell: frozenset[str]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


VOCABULARIES = {
    "mallard": Vocabulary(
        _names("info include comment"),
        _names("title subtitle desc p item tr page section note quote example figure listing synopsis cite links"),
        _names("list steps terms tree table"),
        _names("screen"),
        _names("td th"),
    ),
    "docbook": Vocabulary(
        _names(
            "info bookinfo articleinfo chapterinfo appendixinfo prefaceinfo partinfo sectioninfo sect1info sect2info "
            "sect3info sect4info sect5info refentryinfo referenceinfo setinfo glossaryinfo refmeta indexterm index toc "
            "remark titleabbrev imageobject videoobject audioobject include"
        ),
        _names(
            "title subtitle para simpara formalpara bridgehead term listitem varlistentry glossentry glossdef glossterm step "
            "member row refnamediv refname refpurpose section chapter article blockquote caption note tip warning caution "
            "important figure example table informaltable qandaentry question answer callout address epigraph sidebar "
            "refsection refsect1 refsect2 refsect3 cmdsynopsis funcsynopsis mediaobject"
        ),
        _names("itemizedlist orderedlist variablelist simplelist procedure calloutlist segmentedlist tgroup qandaset"),
        _names("programlisting screen literallayout synopsis"),
        _names("entry seg"),
    ),
}
_JOINED = {"keyseq": "+", "keycombo": "+", "guiseq": " ▸ ", "menuchoice": " ▸ "}
"""What stands between the children of an element: keys pressed together, a way through menus."""
_BLOCKS_HOLD_CODE = _names("page section example listing figure note item")
"""Where Mallard's `code` is a block; elsewhere it is a word of a line."""


def paragraphs(raw: bytes, media: str) -> str:
    """Text of a Mallard or DocBook file.

    Raises
    ------
    Refused : it is no XML (what came before the fault is lost too), nested too deep, or its entities are a bomb.
    """
    parser = expat.ParserCreate()
    writer = _Writer(VOCABULARIES[media], MOST_GROWTH * len(raw) + FREE_CHARACTERS)
    parser.buffer_text = True
    parser.buffer_size = 1 << 16
    parser.UseForeignDTD(True)  # so that an entity nobody declared is skipped, not an error
    parser.ExternalEntityRefHandler = lambda *_: 1  # which reads nothing
    parser.StartElementHandler = writer.start
    parser.EndElementHandler = writer.end
    parser.CharacterDataHandler = writer.text
    parser.SkippedEntityHandler = writer.entity
    try:
        parser.Parse(raw, True)
    except expat.ExpatError as error:
        raise Refused("xml_bomb" if error.code == AMPLIFICATION else "broken_xml") from None
    except (ValueError, LookupError):  # a charset that Python does not know
        raise Refused("broken_xml") from None
    return writer.all()


class _Writer:
    """Collects characters into lines, and lines into blocks."""

    def __init__(self, vocabulary: Vocabulary, most: int) -> None:
        self._words = vocabulary
        self._most = most
        self._open: list[str] = [""]
        self._skip = self._lists = self._code = 0
        self._joint = ""
        self._line: list[str] = []
        self._out: list[str] = []
        self._list_open = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        parent = self._open[-1]
        self._open.append(name)
        if len(self._open) > MOST_DEPTH:
            raise Refused("too_deep")
        words = self._words
        if self._skip or name in words.skip:
            self._skip += 1
        elif name in words.block:
            self._flush()
        elif name in words.lists:
            self._flush()
            self._lists += 1
        elif name in words.code or (name == "code" and parent in _BLOCKS_HOLD_CODE):
            self._flush()
            self._code += 1
            self._open[-1] = "screen"
        elif name in words.cell and self._line:
            self._line.append(" ")
        elif self._joint and parent in _JOINED:
            self._line.append(self._joint)
        self._joint = ""

    def end(self, name: str) -> None:
        name = self._open.pop()
        words = self._words
        if self._skip:
            self._skip -= 1
            return
        if name in words.block:
            self._flush()
        elif name in words.lists:
            self._flush()
            self._lists -= 1
            self._list_open = self._lists > 0
        elif name in words.code:
            self._flush()
            self._code -= 1
        self._joint = _JOINED.get(self._open[-1], "")

    def text(self, characters: str) -> None:
        self._most -= len(characters)
        if self._most < 0:
            raise Refused("xml_bomb")
        if not self._skip and not (self._open[-1] in _JOINED and characters.isspace()):
            self._line.append(characters)

    def entity(self, name: str, is_parameter: bool) -> None:
        """An entity nobody declared: one of HTML's, or nothing."""
        if not is_parameter:
            self.text(html5.get(f"{name};", ""))

    def _flush(self) -> None:
        if not self._line:
            return
        joined = "".join(self._line)
        self._line.clear()
        text = joined.strip("\n").rstrip() if self._code else " ".join(joined.split())
        if not text.strip():
            return
        if self._out:
            self._out.append("\n" if self._list_open else "\n\n")
        self._out.append(text)
        self._list_open = self._lists > 0

    def all(self) -> str:
        """Everything, once the parser is done."""
        self._flush()
        return "".join(self._out)
