"""Mallard and DocBook: text against a plain stripping of tags, layout by example, XML that is meant to hurt."""

import re
import time
from html import unescape

import pytest

from gyral.curate.text.markup import Refused, paragraphs

MALLARD = """<?xml version="1.0" encoding="utf-8"?>
<page xmlns="http://projectmallard.org/1.0/" xmlns:mal="http://projectmallard.org/1.0/" id="a" xml:lang="de">
  <info><desc>left out</desc><mal:credit><mal:name>Somebody</mal:name></mal:credit></info>
  <title>A   title</title>
  <p>Press <keyseq><key>Ctrl</key><key>Alt</key></keyseq> and <guiseq><gui>File</gui> <gui>Open</gui></guiseq>
     or <code>ls</code>, <link xref="b">see</link><media type="image" src="x.png"/>.</p>
  <comment><p>a note of the writers</p></comment>
  <steps>
    <item><p>First</p></item>
    <item><p>Second &amp; <em>last</em></p></item>
  </steps>
  <section id="s"><title>More</title>
    <code>line one
  line two</code>
    <screen>$ make</screen>
    <table><tr><td><p>a</p></td><td><p>b</p></td></tr><tr><td>c</td><td>d</td></tr></table>
    <p/>
  </section>
</page>"""


def test_a_mallard_page():
    assert paragraphs(MALLARD.encode(), "mallard") == "\n\n".join(
        [
            "A title",
            "Press Ctrl+Alt and File ▸ Open or ls, see.",
            "First\nSecond & last",
            "More",
            "line one\n  line two",
            "$ make",
            "a\nb\nc d",
        ]
    )


DOCBOOK = """<?xml version="1.0"?>
<!DOCTYPE article PUBLIC "-//OASIS//DTD DocBook XML V4.5//EN" "http://nowhere.invalid/docbookx.dtd" [<!ENTITY app "Gyral">]>
<article lang="en">
  <articleinfo><author><firstname>Left</firstname></author></articleinfo>
  <title>&app;&nbsp;1</title>
  <para>Use <keycombo><keycap>A</keycap><keycap>B</keycap></keycombo>.<indexterm><primary>gone</primary></indexterm></para>
  <itemizedlist><listitem><para>one</para></listitem><listitem><para>two</para></listitem></itemizedlist>
  <programlisting>if x:
    y</programlisting>
  <informaltable><tgroup cols="2"><tbody><row><entry>a</entry><entry>b</entry></row></tbody></tgroup></informaltable>
</article>"""


def test_a_docbook_article():
    assert paragraphs(DOCBOOK.encode(), "docbook") == "Gyral 1\n\nUse A+B.\n\none\ntwo\n\nif x:\n    y\n\na b"


@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "iso-8859-1", "windows-1252"])
def test_charsets(charset):
    page = f"<?xml version='1.0' encoding='{charset}'?><page><p>Grüße</p></page>".encode(charset)
    assert paragraphs(page, "mallard") == "Grüße"


def test_characters_are_those_that_stand_between_the_tags():
    bare = re.sub(r"<info>.*?</info>|<comment>.*?</comment>", "", MALLARD, flags=re.DOTALL)
    expected = re.sub(r"\s", "", unescape(re.sub(r"<[^>]*>", "", bare)))
    assert re.sub(r"[\s+▸]", "", paragraphs(MALLARD.encode(), "mallard")) == expected


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE = {
    "laughs": (f'<!DOCTYPE page [<!ENTITY l0 "lol">{LAUGHS}]><page><p>&l9;</p></page>'.encode(), "xml_bomb"),
    "quadratic": (
        f'<!DOCTYPE page [<!ENTITY a "{"a" * 50_000}">]><page><p>{"&a;" * 5_000}</p></page>'.encode(),
        "xml_bomb",
    ),
    "itself": (b'<!DOCTYPE page [<!ENTITY a "&a;">]><page><p>&a;</p></page>', "broken_xml"),
    "deep": (b"<page>" + b"<section>" * 2_000_000, "too_deep"),
    "cut off": (b"<page><p>half", "broken_xml"),
    "binary": (bytes(range(256)) * 100, "broken_xml"),
    "charset": (b"<?xml version='1.0' encoding='klingon'?><page/>", "broken_xml"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_xml_is_refused_at_once(name):
    raw, reason = HOSTILE[name]
    began = time.process_time()
    with pytest.raises(Refused, match=reason):
        paragraphs(raw, "mallard")
    assert time.process_time() - began < 2


def test_nothing_outside_is_read(tmp_path):
    (tmp_path / "secret").write_text("secret")
    for declared in (f'<!ENTITY x SYSTEM "file://{tmp_path}/secret">', f'<!ENTITY % x SYSTEM "file://{tmp_path}/secret"> %x;'):
        page = f"<!DOCTYPE page [{declared}]><page><p>before &x; after</p></page>".encode()
        assert paragraphs(page, "mallard") == "before after"


def test_a_large_table_takes_its_time_and_no_more():
    raw = b"<page><table>" + b"<tr><td>a</td><td>b</td></tr>" * 300_000 + b"</table></page>"
    began = time.process_time()
    assert paragraphs(raw, "mallard").count("\n") == 299_999
    assert time.process_time() - began < 10
