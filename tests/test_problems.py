"""Problem details: a status for each kind of error, and messages without the command's options."""

import json

import pytest

from pipelines.problems import KINDS, Problem, ProblemError, problem_of, retry_later
from resnet_core.errors import (
    BrokenImageError,
    ConfigError,
    DataError,
    ImageTooLargeError,
    SuspectResultError,
    UnsupportedImageError,
)


def test_a_problem_is_a_document_of_rfc_9457() -> None:
    body = json.loads(Problem(kind=KINDS["too-large"], detail="9 MB, limit 8").body("abc"))
    assert body == {
        "type": "/docs#too-large",
        "title": "The image is too large",
        "status": 413,
        "detail": "9 MB, limit 8",
        "instance": "urn:request:abc",
    }


@pytest.mark.parametrize(
    ("error", "slug", "status", "detail"),
    [
        (ImageTooLargeError("9 MB are over (--max-bytes)"), "too-large", 413, "9 MB are over"),
        (UnsupportedImageError("found HTML"), "unsupported-image", 415, "found HTML"),
        (BrokenImageError("PNG is\ntruncated"), "broken-image", 422, "PNG is truncated"),
        (SuspectResultError("it drifted (--guard)"), "suspect", 422, "it drifted"),
        (ConfigError("--quality: found 0"), "bad-value", 422, "quality: found 0"),
        (ProblemError("slow-body", "too slow"), "slow-body", 408, "too slow"),
    ],
)
def test_each_error_has_its_kind(error: Exception, slug: str, status: int, detail: str) -> None:
    problem = problem_of(error)
    assert (problem.kind.slug, problem.kind.status, problem.detail) == (slug, status, detail)


@pytest.mark.parametrize("error", [RuntimeError("secret path"), MemoryError()])
def test_what_nobody_expected_is_told_without_its_message(error: Exception) -> None:
    problem = problem_of(error)
    assert problem.kind.status == 500
    assert "secret" not in problem.detail


def test_what_is_no_fault_of_the_client_is_internal() -> None:
    assert problem_of(DataError("disk full")).kind.status == 500


def test_what_passes_says_when_to_come_again() -> None:
    problem = retry_later("full", "64 requests", after_s=7).problem
    assert problem.headers == {"Retry-After": "7"}


def test_slugs_are_unique_and_statuses_those_of_errors() -> None:
    assert all(KINDS[slug].slug == slug for slug in KINDS)
    assert {kind.status for kind in KINDS.values()} == {
        400, 401, 404, 405, 408, 413, 415, 422, 500, 503, 504
    }  # fmt: skip
