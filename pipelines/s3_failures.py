"""What went wrong with a request to an S3 store: whom it concerns, and whether it may pass."""

import re
from dataclasses import dataclass
from typing import Literal

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  it isn't the built-in one
    HTTPClientError,
    IncompleteReadError,
    ParamValidationError,
    ReadTimeoutError,
)
from obstore.exceptions import UnauthenticatedError

from pipelines.storage import StoreError
from resnet_core.errors import DataError

STALL_S = 20.0
"""How long a store may be silent within one request."""


class MissingError(DataError):
    """There is no such object."""


class DeniedError(StoreError):
    """The credentials are good, but may not do this."""


_KEYS_CURE = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_NEW_CURE = "take new credentials, and the same command goes on"
_CURES = {
    "NoSuchBucket": "make the bucket, or check its name and AWS_ENDPOINT_URL",
    "InvalidBucketName": "check the bucket's name",
    "AllAccessDisabled": "ask the owner of the bucket",
    "PermanentRedirect": "set AWS_REGION to the bucket's region",
    "AuthorizationHeaderMalformed": "set AWS_REGION to the bucket's region",
    "IllegalLocationConstraintException": "set AWS_REGION to the bucket's region",
    "ExpiredToken": _NEW_CURE,
    "ExpiredTokenException": _NEW_CURE,
    "TokenRefreshRequired": _NEW_CURE,
    "InvalidToken": _NEW_CURE,
    "InvalidAccessKeyId": _KEYS_CURE,
    "SignatureDoesNotMatch": _KEYS_CURE,
    "RequestTimeTooSkewed": "set the clock of this machine",
}
"""What the user can do about answers that concern the store and not one object."""
_PASSING = frozenset(
    [
        "RequestTimeout",
        "RequestTimeoutException",
        "IncompleteBody",
        "BadDigest",
        "XAmzContentSHA256Mismatch",
        "OperationAborted",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
    ]
)
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_FULL_STATUS = 507

_Concern = Literal["store", "denied", "object", "missing"]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What went wrong with one request, whichever client sent it."""

    words: str
    concern: _Concern
    may_pass: bool = False
    cure: str = ""

    def as_error(self, what: str, *, retry_for_s: float) -> DataError:
        """The error to raise about `what`."""
        if self.concern == "missing":
            return MissingError(f"{what}: no such object")
        tried = f", tried for {retry_for_s:.0f} s" if self.may_pass else ""
        if self.concern == "object":
            return DataError(f"{what}: {self.words}{tried}")
        cure = f"; {self.cure}" if self.cure else ""
        kind = DeniedError if self.concern == "denied" else StoreError
        return kind(f"{what}: {self.words}{tried}{cure}")

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        if isinstance(error, ClientError):
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            told = error.response.get("Error", {})
            return cls._of_answer(status, told.get("Code", ""), told.get("Message", ""))
        if isinstance(error, BotoCoreError):
            return cls._of_boto(error)
        told, _, details = str(error).partition("\n\nDebug source")
        if status := re.search(r"status code: (\d{3})", told):
            code = re.search(r"<Code>(.*?)</Code>", told, re.DOTALL)
            message = re.search(r"<Message>(.*?)</Message>", told, re.DOTALL)
            return cls._of_answer(
                int(status[1]), code[1] if code else "", message[1] if message else ""
            )
        if isinstance(error, UnauthenticatedError):
            return cls(words=" ".join(told.split()), concern="store", may_pass=True)
        if "HTTP error" not in told:
            return cls(words=" ".join(told.split()), concern="object")
        return cls._of_silence(
            no_way="kind: Connect," in details, too_late="kind: Timeout" in details
        )

    @classmethod
    def _of_boto(cls, error: BotoCoreError) -> "Failure":
        if isinstance(error, ConnectionError | HTTPClientError | IncompleteReadError):
            return cls._of_silence(
                no_way=isinstance(error, ConnectionError),
                too_late=isinstance(error, ReadTimeoutError),
            )
        concern: _Concern = "object" if isinstance(error, ParamValidationError) else "store"
        return cls(words=" ".join(str(error).split()), concern=concern)

    @classmethod
    def _of_silence(cls, *, no_way: bool, too_late: bool) -> "Failure":
        if no_way:
            cure = "check the network and AWS_ENDPOINT_URL"
            words = "the store can't be reached"
            return cls(words=words, concern="store", may_pass=True, cure=cure)
        words = f"no answer within {STALL_S:g} s" if too_late else "the connection broke"
        return cls(words=words, concern="object", may_pass=True)

    @classmethod
    def _of_answer(cls, status: int, code: str, message: str) -> "Failure":
        is_named = bool(code) and not code.isdigit()
        words = f"{code}: {message}".strip(" :.") if is_named else f"status {status}"
        words = " ".join(words.split())
        if code in _PASSING or status in _PASSING_STATUS:
            return cls(words=words, concern="object", may_pass=True)
        if code in _CURES:
            return cls(words=words, concern="store", cure=_CURES[code])
        if status in {401, 403} and code != "InvalidObjectState":
            return cls(words=words, concern="denied", cure="these credentials may not do this")
        if status == _FULL_STATUS:
            return cls(words=words, concern="store", cure="make room")
        return cls(words=words, concern="missing" if status == 404 else "object")
