"""xmp.py: what a photo said stays, what an edit says is added, and what is malicious or damaged counts as nothing."""

from __future__ import annotations

from xml.dom import minidom

import pytest

from emorig_diffusers.provenance.edits import Edit
from emorig_diffusers.provenance.xmp import EDITED, Statement, read_packet

EDIT = Edit("my <rig> & co", "happy", 0.8)
CAPTURE = EDITED.replace("compositeWithTrainedAlgorithmicMedia", "digitalCapture")
FORMER = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description r:about="uuid:1"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:q="http://ns.adobe.com/xap/1.0/" q:CreatorTool="Camera 1"
 q:Rating="5">
<dc:rights><r:Alt><r:li xml:lang="x-default">© me &amp; you</r:li></r:Alt></dc:rights></r:Description>
<r:Description r:about="uuid:1" xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><e:DigitalSourceType
 r:resource="{CAPTURE}"/></r:Description></r:RDF></x:xmpmeta>   <?xpacket end="w"?>""".encode()


def test_an_edit_is_read_again() -> None:
    said = read_packet(EDIT.packet())
    assert said.source_type == "compositeWithTrainedAlgorithmicMedia" and said.tool == EDIT.tool
    assert said.edit is not None and said.edit["Model"] == "my <rig> & co"
    assert (said.edit["Emotion"], said.edit["Intensity"]) == ("happy", "0.8")


def test_what_the_photo_said_stays() -> None:
    packet = EDIT.packet(FORMER)
    minidom.parseString(packet)  # namespaces and all
    for kept in ("© me &amp; you", 'q:Rating="5"', "Camera 1", CAPTURE):
        assert packet.decode().count(kept) == 1
    assert read_packet(packet) == read_packet(EDIT.packet())
    again = EDIT.packet(EDIT.packet(packet))
    assert read_packet(again) == read_packet(packet)
    for kept in ("Camera 1", CAPTURE, EDITED, "</emorig:Model>"):
        assert again.decode().count(kept) == 1, "a second edit says nothing twice"


def test_others_words_are_read() -> None:
    assert read_packet(FORMER) == Statement("digitalCapture", "Camera 1", None)


BOMB = b'<!DOCTYPE a [<!ENTITY x "yyyyyyyyyy"><!ENTITY z "&x;&x;">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&z;</x:xmpmeta>'
FILES = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&x;</x:xmpmeta>'


@pytest.mark.parametrize(
    "packet",
    [
        BOMB,
        FILES,
        BOMB.decode().encode("utf-16"),
        b"<a>" * 5000 + b"</a>" * 5000,
        b"<a",
        b"\xff\xfe",
        FORMER[:400],
        b" ",
    ],
)
def test_bombs_and_damage_count_as_nothing(packet: bytes) -> None:
    assert read_packet(packet) == Statement()
    assert EDIT.packet(packet) == EDIT.packet()
