"""XMP packets: what a picture says of its edit, put into what it said before, and read again.

A packet is RDF in XML (ISO 16684-1). Others' packets are read without trust: one that defines a document type, from
which entities would come, or that is damaged, counts as none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.dom import expatbuilder
from xml.dom.minidom import Document, Element, Node

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
EDITED = f"{SOURCE_TYPES}compositeWithTrainedAlgorithmicMedia"
OWN = ("Model", "Version", "Emotion", "Intensity")
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_SPACES = {
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "emorig": "urn:emorig-diffusers:edit:1#",
}
_SHARED = {
    "Iptc4xmpExt:DigitalSourceType": "emorig:FormerDigitalSourceType",
    "xmp:CreatorTool": "emorig:FormerCreatorTool",
}
"""Properties that others write too, and where what they said stays."""
_LONGEST = 2**24  # bytes of a packet that is read: no program writes as many
_HEAD = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
_TAIL = '\n<?xpacket end="w"?>'
_EMPTY = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"/></x:xmpmeta>'


@dataclass(frozen=True)
class Statement:
    """What a picture says of how it was made.

    Attributes:
        source_type: IPTC's word for it, the last part of its address; empty where there is none.
        tool: The program that says it made the picture.
        edit: Model, Version, Emotion and Intensity, as far as this software edited it.
    """

    source_type: str = ""
    tool: str = ""
    edit: dict[str, str] | None = None


def write_packet(properties: dict[str, str], former: bytes | None = None) -> bytes:
    """A packet with properties ("prefix:Name" -> text), in place of their like in a former packet, whose rest stays."""
    document = _parse(former) if former else None
    rdf = None if document is None else _first(document, "RDF")
    if document is None or rdf is None:
        document = expatbuilder.parseString(_EMPTY)
        rdf = _first(document, "RDF")
    described = [node for node in rdf.childNodes if _is(node, _RDF, "Description")]
    own = document.createElementNS(_RDF, "rdf:Description")
    about = next((node.getAttributeNS(_RDF, "about") for node in described if node.hasAttributeNS(_RDF, "about")), "")
    own.setAttributeNS(_RDF, "rdf:about", about)
    for prefix, space in {"rdf": _RDF, **_SPACES}.items():
        own.setAttribute(f"xmlns:{prefix}", space)
    before = {kept: _value(described, name) for name, kept in _SHARED.items() if not _value(described, kept)}
    kept = {name: text for name, text in before.items() if text and text not in properties.values()}
    for name, text in {**properties, **kept}.items():
        _remove(described, name)
        element = document.createElementNS(_place(name)[0], name)
        element.appendChild(document.createTextNode(text))
        own.appendChild(element)
    rdf.appendChild(own)
    root: Any = document.documentElement
    return (_HEAD + root.toxml() + _TAIL).encode("utf-8", "xmlcharrefreplace")


def read_packet(packet: bytes | None) -> Statement:
    """What a packet says; nothing where there is none that can be read."""
    document = _parse(packet) if packet else None
    if document is None:
        return Statement()
    nodes = document.getElementsByTagNameNS(_RDF, "Description")
    edit = {name: text for name in OWN if (text := _value(nodes, f"emorig:{name}"))}
    source = _value(nodes, "Iptc4xmpExt:DigitalSourceType").rstrip("/").rpartition("/")[2]
    return Statement(source, _value(nodes, "xmp:CreatorTool"), edit or None)


def _parse(packet: bytes) -> Document | None:
    if len(packet) > _LONGEST:
        return None
    try:
        document: Any = _Builder().parseString(packet.strip(b"\0 \t\r\n"))
        document.documentElement.toxml()  # one that is nested too deeply cannot be written again
        return document
    except Exception:  # expat's errors, odd encodings, and recursion: the packet is damaged
        return None


class _Builder(expatbuilder.ExpatBuilderNS):
    """minidom's, which stops at a document type: there entities are defined that grow without bound or name files."""

    def install(self, parser: Any) -> None:
        super().install(parser)
        parser.StartDoctypeDeclHandler = self._refuse

    def _refuse(self, *_: Any) -> None:
        raise ValueError("XMP has no document type.")


def _is(node: Any, space: str, name: str) -> bool:
    return node.nodeType == Node.ELEMENT_NODE and node.namespaceURI == space and node.localName == name


def _first(document: Document, name: str) -> Any:
    return next(iter(document.getElementsByTagNameNS(_RDF, name)), None)


def _place(name: str) -> tuple[str, str]:
    prefix, local = name.split(":")
    return _SPACES[prefix], local


def _value(described: list[Element], name: str) -> str:
    """A property's text, as attribute or element; empty where there is none."""
    space, local = _place(name)
    for node in described:
        if node.hasAttributeNS(space, local):
            return node.getAttributeNS(space, local)
        children: list[Any] = [child for child in node.childNodes if _is(child, space, local)]
        for child in children:
            resource = child.getAttributeNS(_RDF, "resource")
            return resource or "".join(n.data for n in child.childNodes if n.nodeType == Node.TEXT_NODE).strip()
    return ""


def _remove(described: list[Element], name: str) -> None:
    """Take a property out."""
    space, local = _place(name)
    for node in described:
        if node.hasAttributeNS(space, local):
            node.removeAttributeNS(space, local)
        for child in [child for child in node.childNodes if _is(child, space, local)]:
            node.removeChild(child)
