"""Errors that a user can cause and mend. A message is one line: the thing, what was found, a cure.

ResrayError
├── ImageError               one image can't be taken; the others go on
│   ├── UnsupportedImageError    a format or a kind that isn't read (HEIC, an animation)
│   │   └── NoImageError             not an image at all
│   ├── BrokenImageError         truncated or corrupt
│   ├── ImageTooLargeError       over --max-pixels or --max-bytes
│   └── SuspectResultError       its result is too far from it (--guard)
├── WeightsError             a weights file is missing, damaged or of another kind
├── ConfigError              a setting has a value that can't be
└── DataError                a folder or a store can't be read or written
"""

import difflib
from collections.abc import Iterable


class ResrayError(Exception):
    """Base of every error whose message is meant for the user."""


class ImageError(ResrayError):
    """One image can't be taken; says which and why."""


class UnsupportedImageError(ImageError):
    """The image is of a format or kind that isn't read, or none at all."""


class NoImageError(UnsupportedImageError):
    """The bytes are something else, or of a kind that isn't known."""


class BrokenImageError(ImageError):
    """The image is truncated or corrupt."""


class ImageTooLargeError(ImageError):
    """The image is over a limit on pixels or bytes."""


class SuspectResultError(ImageError):
    """The result is too far from the image that it was made from."""


class WeightsError(ResrayError):
    """A weights file is missing, damaged or of another kind than expected."""


class ConfigError(ResrayError):
    """A setting has a name or value that can't be."""


class DataError(ResrayError):
    """A folder or a store can't be read, or can't be written."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown name: the near one if there is one, else the list."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
