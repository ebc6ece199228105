"""What a client is told when it gets no image: problem details by RFC 9457.

Every kind has its slug, which is the anchor of its explanation on the page of the interface, and
says in `detail` what was expected and what was found.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resnet_core.errors import (
    BrokenImageError,
    ConfigError,
    ImageTooLargeError,
    ResrayError,
    SuspectResultError,
    UnsupportedImageError,
)

MEDIA_TYPE = "application/problem+json"
CLIENT_GONE_STATUS = 499
"""Of the access log alone: nobody was there to be told."""

_OPTION_BEHIND = re.compile(r" \(--[a-z-]+\)$")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way of going wrong."""

    slug: str
    status: int
    title: str
    meaning: str
    """What a client can do about it."""


_KINDS = (
    Kind(
        slug="bad-request",
        status=400,
        title="The request can't be read",
        meaning="Send the bytes of one image as the body, or as the file field `image` of a form.",
    ),
    Kind(
        slug="no-key",
        status=401,
        title="An API key is needed",
        meaning="Send the header `Authorization: Bearer KEY`.",
    ),
    Kind(
        slug="not-found",
        status=404,
        title="There is nothing here",
        meaning="Look at the list of addresses.",
    ),
    Kind(
        slug="unknown-weights",
        status=404,
        title="No such weights",
        meaning="Take a name from GET /v1/models.",
    ),
    Kind(
        slug="wrong-method",
        status=405,
        title="Another method is expected",
        meaning="Look at the list of addresses.",
    ),
    Kind(
        slug="slow-body",
        status=408,
        title="The body didn't come in time",
        meaning="Send it faster, or a smaller one.",
    ),
    Kind(
        slug="too-large",
        status=413,
        title="The image is too large",
        meaning="GET /v1/models tells the limits on bytes and pixels.",
    ),
    Kind(
        slug="unsupported-image",
        status=415,
        title="Not an image that is read",
        meaning="Send a still image of a format that is listed. Content decides, not names.",
    ),
    Kind(
        slug="bad-value",
        status=422,
        title="A setting can't have this value",
        meaning="`detail` names the setting and what it may be.",
    ),
    Kind(
        slug="broken-image",
        status=422,
        title="The image is broken",
        meaning="It is truncated or corrupt; send the whole file.",
    ),
    Kind(
        slug="suspect",
        status=422,
        title="The result is too far from the image",
        meaning="It was refused because of `guard=fail`; with `guard=mark` it is sent.",
    ),
    Kind(
        slug="internal",
        status=500,
        title="Something went wrong here",
        meaning="A fault of the service; its log has the request's id.",
    ),
    Kind(
        slug="full",
        status=503,
        title="Too much is waiting already",
        meaning="Come again after the seconds in the header Retry-After.",
    ),
    Kind(
        slug="unavailable",
        status=503,
        title="The network can't be reached",
        meaning="It is starting or has failed; come again after the seconds in Retry-After.",
    ),
    Kind(
        slug="too-late",
        status=504,
        title="The deadline has passed",
        meaning="The image wasn't done in time; what had not begun was dropped.",
    ),
)
KINDS: dict[str, Kind] = {kind.slug: kind for kind in _KINDS}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One answer without an image."""

    kind: Kind
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def body(self, request_id: str) -> bytes:
        """The JSON document."""
        members: dict[str, Any] = {
            "type": f"/docs#{self.kind.slug}",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "instance": f"urn:request:{request_id}",
        }
        text = json.dumps(members, ensure_ascii=False)
        return text.encode("utf-8", errors="backslashreplace")  # as JSON escapes them too


class ProblemError(Exception):
    """Ends a request with a problem."""

    def __init__(self, slug: str, detail: str, *, headers: Mapping[str, str] | None = None):
        super().__init__(detail)
        self.problem = Problem(kind=KINDS[slug], detail=detail, headers=headers or {})


def retry_later(slug: str, detail: str, *, after_s: int) -> ProblemError:
    """A problem that passes; `after_s` is when to come again."""
    return ProblemError(slug, detail, headers={"Retry-After": str(after_s)})


def problem_of(error: Exception) -> Problem:
    """What an error of an image or a setting means to a client; anything else is `internal`."""
    if isinstance(error, ProblemError):
        return error.problem
    if not isinstance(error, ResrayError):
        detail = "an unexpected error; the service's log has it under this request's id"
        return Problem(kind=KINDS["internal"], detail=detail)
    return Problem(kind=KINDS[_slug(error)], detail=_told(error))


def _slug(error: ResrayError) -> str:
    match error:
        case ImageTooLargeError():
            return "too-large"
        case UnsupportedImageError():
            return "unsupported-image"
        case BrokenImageError():
            return "broken-image"
        case SuspectResultError():
            return "suspect"
        case ConfigError():
            return "bad-value"
        case _:
            return "internal"


def _told(error: ResrayError) -> str:
    """Messages name the command's options, which a client doesn't have."""
    return _OPTION_BEHIND.sub("", " ".join(str(error).split())).removeprefix("--")
