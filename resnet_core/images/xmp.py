"""XMP packets, edited as text so that everything else in them stays as it was written."""

import re

_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)[1-8]""")
_NAME = rb"""[^\s<>=/"']"""
_POSITION = rb"(?=%b*(?i:gps|latitude|longt?itude))%b++" % (_NAME, _NAME)
"""In any namespace or none: drones write `drone-dji:GpsLongtitude` and `drone-skydio:Latitude`."""
_ATTRIBUTE = re.compile(rb"""\s%b\s*+=\s*+(?:"[^"]*"|'[^']*')""" % _POSITION)
_ELEMENT = re.compile(rb"<(%b)(?:\s[^<>]*)?/?>" % _POSITION)
_LEFT = re.compile(
    rb"""</?%b|[\s"']%b\s*+=|(?i:gps[a-z:]|latitude|longt?itude)""" % (_POSITION, _POSITION)
)


def upright(packet: bytes) -> bytes:
    """The same with `tiff:Orientation` reset to 1."""
    return _ORIENTATION.sub(rb"\g<1>1", packet)


def without_gps(packet: bytes) -> bytes | None:
    """The same without positions; None where they can't be taken out for certain.

    They are attributes or elements with GPS, latitude or longitude in their names. A packet that
    isn't UTF-8, or that still holds such a name afterwards, is given up rather than passed on.
    """
    if b"\0" in packet:
        return None
    packet = _without_elements(_ATTRIBUTE.sub(b"", packet))
    return None if _LEFT.search(packet) else packet


def _without_elements(packet: bytes) -> bytes:
    """The same without elements of positions; from one that isn't closed on, as it is."""
    kept: list[bytes] = []
    at = 0
    for opening in _ELEMENT.finditer(packet):
        if opening.start() < at:
            continue
        end = opening.end()
        if not opening[0].endswith(b"/>"):
            closing = packet.find(b"</" + opening[1], end)
            end = packet.find(b">", closing) + 1 if closing >= 0 else 0
        if not end:
            break
        kept.append(packet[at : opening.start()])
        at = end
    return b"".join([*kept, packet[at:]])
