"""The page of the serving endpoint: files of the package, each with the headers it goes with."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class PageFile:
    """One file of the page as it goes out."""

    data: bytes
    media_type: str
    headers: dict[str, str] = field(default_factory=dict[str, str])


def page_file(path: str) -> PageFile | None:  # noqa: ARG001
    """The file at a path ("/", "/assets/serve.js"); None where the page has none."""
    return None
