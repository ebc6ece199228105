"""A page as a single HTML file with no outside asset, from a template in `pipelines/pages/`.

Styles and script are inline (and named by hash in a Content-Security-Policy that allows nothing
else), pictures are data URIs: a moved or mailed page still works. Every value is escaped.
"""

import base64
import hashlib
import re
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import jinja2
from markupsafe import Markup, escape

from pipelines import charts
from pipelines.page_images import EncodedView
from pipelines.quantities import format_bytes, format_count, format_duration, format_figure


@dataclass(frozen=True, kw_only=True)
class _Page:
    """The parts that every page shares."""

    title: str
    style: Markup
    script: Markup
    policy: str
    charts: object = field(default=charts)


def render_page(template: str, *, title: str, **content: object) -> str:
    """The page as text; `content` is what the template names."""
    return _environment().get_template(template).render(page=_page(title), **content)


def _page(title: str) -> _Page:
    style, script = _asset("style.css"), _asset("page.js")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    # Both are the package's own files, never user data.
    return _Page(title=title, style=Markup(style), script=Markup(script), policy=policy)  # noqa: S704


@cache
def _asset(name: str) -> str:
    return (resources.files("pipelines") / "pages" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=format_count,
        duration=format_duration,
        size=format_bytes,
        figure=format_figure,
        data_uri=_data_uri,
        webp_uri=_webp_uri,
        code=_code,
    )
    return environment


def _code(text: str) -> Markup:
    """Text with `names` set as code."""
    shown = re.sub("`([^`]+)`", r'<span class="mono">\1</span>', str(escape(text)))
    return Markup(shown)  # noqa: S704  escaped before


def _data_uri(view: EncodedView) -> str:
    return f"data:{view.media_type};base64,{base64.b64encode(view.data).decode('ascii')}"


def _webp_uri(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"
