"""Laws of the table of formats."""

import pytest
from image_files import still

from resnet_core.errors import ConfigError
from resnet_core.images import FORMATS, output_format, sniff


@pytest.mark.parametrize("format", FORMATS)
def test_content_tells_the_format(format):
    assert sniff(still(format)) == format


@pytest.mark.parametrize("format", FORMATS)
def test_the_source_format_stays_unless_it_is_not_written(format):
    assert output_format(format, None) == (format if FORMATS[format].writes else "PNG")


@pytest.mark.parametrize("name", ["jpg", "JPEG", ".jpeg", "Jpg", ".JFIF"])
def test_a_format_has_many_names(name):
    assert output_format("PNG", name) == "JPEG"


def test_every_extension_belongs_to_one_format():
    extensions = [extension for spec in FORMATS.values() for extension in spec.extensions]
    assert len(extensions) == len(set(extensions))
    assert all(extension == extension.lower() for extension in extensions)
    assert all(extension.startswith(".") for extension in extensions)


def test_an_unknown_format_offers_the_near_one():
    with pytest.raises(ConfigError, match="format 'webpp' is unknown: did you mean 'webp'"):
        output_format("PNG", "webpp")


def test_gif_is_not_written():
    with pytest.raises(ConfigError, match="'gif' is read, not written"):
        output_format("PNG", "gif")
