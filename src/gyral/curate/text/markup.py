"""Mallard and DocBook → paragraphs of text, by the streaming parser of the standard library.

Blocks are separated by a blank line, items of a list and rows of a table by a line end; titles are paragraphs; markup inside a
line leaves its text; code keeps its lines. What is about a page and not of it (credits, licences, index entries) is left out.

Hostile XML: nothing outside the file is ever read, entities may give no more than `MOST_GROWTH` times the file, and nesting ends
at `MOST_DEPTH`; both stop the parser at once.
"""

from __future__ import annotations

from html.entities import html5
from typing import NamedTuple
from xml.parsers import expat

MOST_DEPTH = 512
MOST_GROWTH, FREE_CHARACTERS = 4, 1 << 16


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
        _names("title subtitle desc p item tr section note quote example figure listing synopsis media cite td-block links"),
        _names("list steps terms tree table"),
        _names("screen"),
        _names("td th"),
    ),
    "docbook": Vocabulary(
        _names(
            "info bookinfo articleinfo chapterinfo appendixinfo prefaceinfo partinfo sectioninfo sect1info sect2info sect3info "
            "sect4info sect5info refentryinfo referenceinfo setinfo glossaryinfo refmeta indexterm index toc remark titleabbrev "
            "imageobject videoobject audioobject include xi:include"
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


def paragraphs(raw: bytes, media: str) -> str:
    """Text of a Mallard or DocBook file.

    Raises
    ------
    Refused : it is no XML (what came before the fault is lost too), nested too deep, or its entities are a bomb.
    """
    parser = expat.ParserCreate(namespace_separator=None)
    writer = _Writer(VOCABULARIES[media], MOST_GROWTH * len(raw) + FREE_CHARACTERS)
    parser.buffer_text = True
    parser.buffer_size = 1 << 16
    parser.UseForeignDTD(True)  # so that an entity nobody declared is skipped, not an error
    parser.ExternalEntityRefHandler = lambda *_: 1  # which reads nothing
    parser.StartElementHandler = writer.start
    parser.EndElementHandler = writer.end
    parser.CharacterDataHandler = writer.text
    parser.SkippedEntityHandler = lambda name, is_parameter: None if is_parameter else writer.text(html5.get(f"{name};", ""))
    try:
        parser.Parse(raw, True)
    except expat.ExpatError as error:
        bomb = (
            error.code == expat.errors.codes.get(expat.errors.XML_ERROR_AMPLIFICATION_LIMIT_BREACH, -1)
            if hasattr(expat.errors, "XML_ERROR_AMPLIFICATION_LIMIT_BREACH")
            else False
        )
        raise Refused("xml_bomb" if bomb else "broken_xml") from None
    except (ValueError, LookupError, UnicodeError):
        raise Refused("broken_xml") from None
    return writer.all()


class _Writer:
    """Collects characters into lines, and lines into blocks."""

    def __init__(self, vocabulary: Vocabulary, most: int) -> None:
        self._words = vocabulary
        self._most = most
        self._depth = self._skip = self._lists = self._code = 0
        self._line: list[str] = []
        self._out: list[str] = []
        self._list_open = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise Refused("too_deep")
        name = name.rpartition(":")[2] if name != "xi:include" else name
        words = self._words
        if self._skip or name in words.skip:
            self._skip += 1
        elif name in words.block:
            self._flush()
        elif name in words.lists:
            self._flush()
            self._lists += 1
        elif name in words.code:
            self._flush()
            self._code += 1
        elif name in words.cell and self._line:
            self._line.append(" ")

    def end(self, name: str) -> None:
        self._depth -= 1
        if self._skip:
            self._skip -= 1
            return
        name = name.rpartition(":")[2]
        words = self._words
        if name in words.block:
            self._flush()
        elif name in words.lists:
            self._flush()
            self._lists -= 1
            if not self._lists:
                self._list_open = False
        elif name in words.code:
            self._flush()
            self._code -= 1

    def text(self, characters: str) -> None:
        self._most -= len(characters)
        if self._most < 0:
            raise Refused("xml_bomb")
        if not self._skip:
            self._line.append(characters)

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
        self._flush()
        return "".join(self._out)
