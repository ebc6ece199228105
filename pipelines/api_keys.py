"""API keys: from a file with one a line, or from the environment; compared in constant time."""

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from resnet_core.errors import ConfigError

VARIABLE = "RESRAY_API_KEYS"
SHORTEST = 16
_SCHEME = "bearer"


@dataclass(frozen=True, kw_only=True)
class ApiKeys:
    """The keys that are let in, as digests; none at all lets everyone in."""

    digests: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.digests)

    def admit(self, authorization: str | None) -> bool:
        """Whether a header `Authorization: Bearer KEY` holds one of the keys.

        All keys are compared, each in constant time: what it takes tells nothing.
        """
        if not self:
            return True
        scheme, _, key = (authorization or "").partition(" ")
        found = _digest(key.strip())
        matches = [hmac.compare_digest(found, digest) for digest in self.digests]
        return any(matches) and scheme.lower() == _SCHEME


def load_keys(
    file: str | None, *, required: bool = False, environment: Mapping[str, str] = os.environ
) -> ApiKeys:
    """The keys of a file (one a line, `#` begins a comment) and of RESRAY_API_KEYS (by commas).

    Raises ConfigError for a file that can't be read, a key that can be guessed, and, where keys are
    `required`, for none.
    """
    keys = [*_keys_of_file(file), *_words(environment.get(VARIABLE, "").split(","))]
    if required and not keys:
        raise ConfigError(f"API keys are required, and neither {VARIABLE} nor a file has any")
    for key in keys:
        if len(key) < SHORTEST or not key.isascii() or not key.isprintable():
            raise ConfigError(
                f"an API key of {len(key)} characters: expected at least {SHORTEST}, plain ASCII"
            )
    return ApiKeys(digests=tuple(_digest(key) for key in keys))


def _keys_of_file(file: str | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: the API keys can't be read ({error})") from error
    keys = _words(line.partition("#")[0] for line in lines)
    if not keys:
        raise ConfigError(f"{file}: no API key in it; expected one a line")
    return keys


def _words(parts: Iterable[str]) -> list[str]:
    return [part.strip() for part in parts if part.strip()]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
