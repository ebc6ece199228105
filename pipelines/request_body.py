"""The image in a request's body: raw bytes, or the file field `image` of a form.

Limits hold while it is read: of a body that is too large no more than the limit is ever kept.
"""

from collections.abc import AsyncGenerator, AsyncIterator

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from pipelines.problems import ProblemError
from resnet_core.errors import ImageTooLargeError

FIELD = "image"
FORM_OVERHEAD_BYTES = 64 * 1024
"""Of boundaries, part headers and small fields."""
_FORM = "multipart/form-data"
_MOST_FIELDS = 8
_EXPECTED = f"expected the bytes of one image, or a form with one file field `{FIELD}`"


async def read_image(headers: Headers, chunks: AsyncIterator[bytes], *, max_bytes: int) -> bytes:
    """The image's bytes, at most `max_bytes`.

    Raises ImageTooLargeError as soon as it is certain, before the rest is read, and ProblemError
    for a body without an image.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise ProblemError(
            "unsupported-image", f"expected a body as it is, found Content-Encoding {coding!r}"
        )
    is_form = media_type == _FORM
    most = max_bytes + (FORM_OVERHEAD_BYTES if is_form else 0)
    told = headers.get("content-length", "")
    if told.isdecimal() and int(told) > most:
        raise _too_large(int(told), max_bytes)
    bounded = _bounded(chunks, most, max_bytes)
    data = await _of_form(headers, bounded, max_bytes) if is_form else await _whole(bounded)
    if not data:
        raise ProblemError("bad-request", f"the body is empty: {_EXPECTED}")
    return data


async def _bounded(
    chunks: AsyncIterator[bytes], most: int, max_bytes: int
) -> AsyncGenerator[bytes]:
    found = 0
    async for chunk in chunks:
        found += len(chunk)
        if found > most:
            raise _too_large(found, max_bytes)
        yield chunk


async def _whole(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def _of_form(headers: Headers, chunks: AsyncGenerator[bytes], max_bytes: int) -> bytes:
    # Names and fields are UTF-8 to us: some charsets take minutes to decode.
    _, given = parse_options_header(headers["content-type"])
    boundary = given.get(b"boundary", b"").decode("latin-1")
    if not boundary or '"' in boundary:
        raise ProblemError("bad-request", f"the form can't be read (no boundary): {_EXPECTED}")
    plain = Headers({"content-type": f'{_FORM}; boundary="{boundary}"'})
    parser = MultiPartParser(plain, chunks, max_files=2, max_fields=_MOST_FIELDS)
    parser.spool_max_size = max_bytes + 1  # it is in memory soon anyway
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise ProblemError(
            "bad-request", f"the form can't be read ({error}): {_EXPECTED}"
        ) from error
    try:
        items = form.multi_items()
        names = [name for name, _ in items]
        if names != [FIELD] or not isinstance(items[0][1], UploadFile):
            found = ", ".join(f"`{name}`" for name in names) or "none"
            raise ProblemError(
                "bad-request",
                f"expected one file field `{FIELD}` in the form, found {found};"
                " settings belong into the query",
            )
        data = await items[0][1].read()
    finally:
        await form.close()
    if len(data) > max_bytes:
        raise _too_large(len(data), max_bytes)
    return data


def _too_large(found: int, max_bytes: int) -> ImageTooLargeError:
    return ImageTooLargeError(
        f"{found / 1e6:.1f} MB are over the limit of {max_bytes / 1e6:.1f} MB"
    )
