"""Laws of XMP edited as text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import XMP

from resnet_core.images import xmp

NAMESPACE = b'xmlns:exif="http://ns.adobe.com/exif/1.0/"'
PARTS = (b"<exif:GPSLatitude>", b"</exif:GPSLatitude>", b"exif:GPSLatitude='48,5N'",
         b"48,5N", b" ", b"<", b">", b"/>", b'"', b"a")  # fmt: skip


def test_orientation_is_reset_as_attribute_and_as_element():
    assert b'tiff:Orientation="1"' in xmp.upright(XMP)
    assert xmp.upright(b"<tiff:Orientation>8</tiff:Orientation>") == (
        b"<tiff:Orientation>1</tiff:Orientation>"
    )
    assert xmp.upright(b"tiff:Orientation = '3'") == b"tiff:Orientation = '1'"


def test_a_text_that_speaks_of_gps_stays():
    packet = b'<a b="a gps of 1998"><dc:subject>GPS</dc:subject></a>'
    assert xmp.without_gps(packet) == packet


def test_everything_but_the_position_stays():
    found = xmp.without_gps(XMP)
    assert found
    assert b"GPS" not in found
    for kept in (b'exif:ISOSpeed="100"', b"Pont Neuf", b'tiff:Orientation="6"', b"<?xpacket end"):
        assert kept in found
    assert xmp.without_gps(found) == found


@pytest.mark.parametrize(
    "packet",
    [
        b"<a " + NAMESPACE + b" exif:GPSLatitude='48,5N' b='1'/>",
        b"<a " + NAMESPACE + b"\n  exif:GPSLatitude = \"48,5N\"\n b='1'/>",
        b"<a " + NAMESPACE + b"><exif:GPSLatitude>48,5N</exif:GPSLatitude><b>1</b></a>",
        b"<a " + NAMESPACE + b'><exif:GPSLatitude rdf:v="1">\n48,5N\n</exif:GPSLatitude >1</a>',
        b"<a " + NAMESPACE + b'><exif:GPSLatitude rdf:value="48,5N"/><b>1</b></a>',
        b'<a xmlns:q="http://ns.adobe.com/exif/1.0/" q:GPSLatitude="48,5N" b="1"/>',
        b'<a other:GPSLatitude="48,5N" b="1"/>',
        b'<a drone-dji:GpsLatitude="+48,5N" drone-dji:GpsLongtitude="48,5N" b="1"/>',
        b'<a b="1"><drone-skydio:Latitude>48,5N</drone-skydio:Latitude></a>',
        b'<a b="1"><gps>48,5N</gps><gpsPosition>48,5N</gpsPosition></a>',
        b'<a gps="48,5N" b="1"/>',
        b'<a x:gps-position="48,5N" x:my.GPS="48,5N" b="1"/>',
        b'<a b="1"><x:gps-position/><y:last-gps>48,5N</y:last-gps></a>',
        b'<a b="1" xmlns:gps="u" gps:at="48,5N"><gps:of>48,5N</gps:of></a>',
        '<a \u00fcgps="48,5N" b="1"><\u00fcgps>48,5N</\u00fcgps></a>'.encode(),
        b"<a " + NAMESPACE + b"><exif:GPSX>48,5N</exif:GPSX>1<exif:GPSX>48,5N</exif:GPSX></a>",
    ],
)
def test_every_way_to_write_a_position_is_found(packet):
    found = xmp.without_gps(packet)
    assert found
    assert b"48,5N" not in found
    assert b"1" in found


@pytest.mark.parametrize(
    "packet",
    [
        b"<exif:GPSLatitude>48,5N and never closed",
        b'<a b="1">latitude 48,5N</a>',
        b'<a b="1"gps="48,5N"/>',
        b"<a gps='48,5N b=1>",
        b"<gps><gps>1</gps>48,5N</gps>",
        '<a exif:GPSLatitude="48,5N"/>'.encode("utf-16"),
    ],
)
def test_a_packet_that_cannot_be_cleaned_is_given_up(packet):
    assert xmp.without_gps(packet) is None


@given(st.lists(st.sampled_from(PARTS)))
def test_no_gps_name_is_ever_left(parts):
    found = xmp.without_gps(b"".join(parts))
    assert found is None or b"GPSL" not in found


def test_a_hostile_packet_costs_no_time():
    began = time.perf_counter()
    xmp.without_gps(b"<exif:GPSLatitude>" * 100_000)
    xmp.without_gps(b"<exif:GPSLatitude></exif:GPSLatitude>" * 100_000)
    xmp.without_gps(b" " * 1_000_000)
    namespaces = (NAMESPACE.replace(b"exif=", b"e%d=" % each) for each in range(5000))
    xmp.without_gps(b"<a " + b" ".join(namespaces) + b"/>")
    xmp.without_gps(b" " + b"a" * 500_000 + b":" + b"a" * 500_000)
    for name in (b"gps" * 300_000, b"a:gps" * 200_000, b"gps " * 200_000, b"\ngps" * 200_000):
        xmp.without_gps(b"<a " + name + b"/>")
        xmp.without_gps(b"<" + name)
    assert time.perf_counter() - began < 5
