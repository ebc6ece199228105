"""The page of the serving endpoint: files of the package, each with the headers it goes out with.

The sources are plain HTML, CSS and ES modules in `pipelines/pages/serve/`, without a build step.
The page loads nothing from elsewhere, runs no inline script and writes no markup from strings: its
Content-Security-Policy forbids it.
"""

from dataclasses import dataclass, field
from functools import cache
from importlib import resources

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=()",
    # The files of one release belong together; they are small, and asked for anew each time.
    "Cache-Control": "no-cache",
}

_SOURCES = {
    "/": ("serve/serve.html",),
    "/assets/serve.css": ("style.css", "serve/serve.css"),
    "/assets/serve.js": ("serve/serve.js",),
    "/assets/client.js": ("serve/client.js",),
    "/assets/controls.js": ("serve/controls.js",),
    "/assets/keys.js": ("serve/keys.js",),
    "/assets/photo.js": ("serve/photo.js",),
    "/assets/result.js": ("serve/result.js",),
    "/assets/viewer.js": ("serve/viewer.js",),
    "/assets/words.js": ("serve/words.js",),
    "/assets/chevron.svg": ("serve/chevron.svg",),
    "/assets/icon.svg": ("serve/icon.svg",),
}
"""What each path is made of: files of `pipelines/pages/`, one after the other."""

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

PATHS = tuple(_SOURCES)
"""All that the page consists of."""


@dataclass(frozen=True, kw_only=True)
class PageFile:
    """One file of the page as it goes out."""

    data: bytes
    media_type: str
    headers: dict[str, str] = field(default_factory=dict[str, str])


def page_file(path: str) -> PageFile | None:
    """The file at a path ("/", "/assets/serve.js"); None where the page has none."""
    if path not in _SOURCES:
        return None
    kind = _SOURCES[path][-1].rpartition(".")[2]
    return PageFile(data=_data(path), media_type=_MEDIA_TYPES[kind], headers=dict(_HEADERS))


@cache
def _data(path: str) -> bytes:
    folder = resources.files("pipelines") / "pages"
    return b"\n".join((folder / name).read_bytes() for name in _SOURCES[path])
