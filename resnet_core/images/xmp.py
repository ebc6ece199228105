"""XMP packets, edited as text so that everything else in them stays as it was written."""

import re

_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)[1-8]""")
_EXIF_NAMESPACE = re.compile(rb"""xmlns:([\w.-]+)\s*=\s*["']http://ns\.adobe\.com/exif/1\.0/["']""")
_GPS_LEFT = re.compile(rb"GPS[A-Z][a-z]")


def upright(packet: bytes) -> bytes:
    """The same with `tiff:Orientation` reset to 1."""
    return _ORIENTATION.sub(rb"\g<1>1", packet)


def without_gps(packet: bytes) -> bytes | None:
    """The same without GPS properties; None where they can't be taken out for certain.

    Properties are attributes or elements named GPS... in the EXIF namespace. A packet that isn't
    UTF-8, or that still holds such a name afterwards, is given up rather than passed on.
    """
    if b"\0" in packet:
        return None
    for prefix in {*_EXIF_NAMESPACE.findall(packet), b"exif"}:
        name = re.escape(prefix) + rb":GPS\w*"
        packet = re.sub(rb"""\s%b\s*=\s*(?:"[^"]*"|'[^']*')""" % name, b"", packet)
        packet = _without_elements(packet, name)
    return None if _GPS_LEFT.search(packet) else packet


def _without_elements(packet: bytes, name: bytes) -> bytes:
    """The same without elements of that name; from one that isn't closed on, as it is."""
    kept: list[bytes] = []
    at = 0
    for opening in re.finditer(rb"<(%b)(?:\s[^<>]*)?>" % name, packet):
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
