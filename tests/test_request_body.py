"""Bodies: raw and as forms, whole whatever the pieces, and never more than the limit."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_for_tests import BOUNDARY, form_body
from starlette.datastructures import Headers

from pipelines.problems import ProblemError
from pipelines.request_body import FORM_OVERHEAD_BYTES, read_image
from resnet_core.errors import ImageTooLargeError

FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


class Pieces:
    """A body in pieces; counts what was taken of it."""

    def __init__(self, body: bytes, size: int) -> None:
        self.taken = 0
        self._pieces = [body[at : at + size] for at in range(0, len(body), size)]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            self.taken += len(piece)
            yield piece


def read(
    body: bytes, headers: dict[str, str] | None = None, *, size: int = 1000, limit: int = 1000
) -> bytes:
    pieces = Pieces(body, size)
    return asyncio.run(read_image(Headers(headers or {}), aiter(pieces), max_bytes=limit))


@given(body=st.binary(min_size=1, max_size=300), size=st.integers(1, 400))
def test_a_body_comes_whole_raw_and_as_a_form(body: bytes, size: int) -> None:
    assert read(body, size=size) == body
    assert read(form_body({"image": body}), FORM, size=size) == body


def test_of_a_body_that_is_too_large_no_more_than_the_limit_is_read() -> None:
    for headers, most in (({}, 100), (FORM, 100 + FORM_OVERHEAD_BYTES)):
        body = form_body({"image": b"x" * 500_000}) if headers else b"x" * 500_000
        pieces = Pieces(body, 50)
        with pytest.raises(ImageTooLargeError, match=r"over the limit of 0\.0 MB"):
            asyncio.run(read_image(Headers(headers), aiter(pieces), max_bytes=100))
        assert pieces.taken <= most + 50


def test_a_length_that_is_told_and_too_large_is_refused_before_anything_is_read() -> None:
    pieces = Pieces(b"x", 1)
    headers = Headers({"content-length": "2000"})
    with pytest.raises(ImageTooLargeError):
        asyncio.run(read_image(headers, aiter(pieces), max_bytes=1000))
    assert pieces.taken == 0


def test_the_limit_is_the_images_own_in_a_form_too() -> None:
    assert read(form_body({"image": b"x" * 1000}), FORM) == b"x" * 1000
    with pytest.raises(ImageTooLargeError):
        read(form_body({"image": b"x" * 1001}), FORM)


@pytest.mark.parametrize(
    ("body", "headers", "told"),
    [
        (b"", {}, "the body is empty"),
        (b"", {"content-type": "multipart/form-data"}, "the form can't be read"),
        (b"no form", FORM, "the form can't be read"),
        (form_body({}), FORM, "found none"),
        (form_body({"image": "text"}), FORM, "found `image`"),
        (form_body({"image": b"1", "more": b"2"}), FORM, "found `image`, `more`"),
        (form_body({"image": b"1", "a": b"2", "b": b"3"}), FORM, "Too many files"),
        (b"x", {"content-encoding": "br"}, "found Content-Encoding 'br'"),
    ],
)
def test_a_body_without_an_image_is_told(body: bytes, headers: dict[str, str], told: str) -> None:
    with pytest.raises(ProblemError, match=told):
        read(body, headers)


@pytest.mark.parametrize("charset", ["punycode", "unicode_escape", "none-such"])
def test_a_form_is_in_utf_8_whatever_it_says(charset: str) -> None:
    headers = {"content-type": f"{FORM['content-type']}; charset={charset}"}
    assert read(form_body({"image": b"1"}), headers) == b"1"
    with pytest.raises(ProblemError, match="found `ÿ`"):
        read(form_body({"image": b"1"}).replace(b'"image"', b'"\xff"'), headers)


def test_other_types_of_content_are_taken_as_they_are() -> None:
    for kind in ("application/x-www-form-urlencoded", "image/png", "text/plain; charset=x"):
        assert read(b"x", {"content-type": kind}) == b"x"
