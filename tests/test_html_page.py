"""Each page is one file that needs nothing else and trusts no name."""

import base64
import hashlib
import re

import pytest
from pages_for_tests import EVIL, Page, enhance_report, evaluate_report, training_report

from pipelines.report import render_enhance_report, render_evaluate_report
from pipelines.training_report import render_training_report

PAGES = {
    "enhance": lambda name: render_enhance_report(enhance_report(name)),
    "evaluate": lambda name: render_evaluate_report(evaluate_report(name)),
    "training": lambda name: render_training_report(training_report(name)),
}


@pytest.mark.parametrize("kind", PAGES)
def test_page_needs_nothing_outside_itself(kind: str) -> None:
    html = PAGES[kind]("cat.jpg")
    page = Page(html)
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            link = attributes.get(name)
            assert link is None or link.startswith(("data:image/", "#"))
    assert page.all("link") == []
    assert not re.search(r"url\(|@import|fetch\(|https?://", html)


@pytest.mark.parametrize("kind", PAGES)
def test_policy_allows_the_own_style_and_script_and_no_other(kind: str) -> None:
    html = PAGES[kind]("cat.jpg")
    policy = next(
        meta["content"]
        for meta in Page(html).all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
        assert len(bodies) == 1
        digest = base64.b64encode(hashlib.sha256(bodies[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert 'style="' not in html  # the policy would block it


@pytest.mark.parametrize("kind", PAGES)
def test_names_are_shown_as_text_and_never_run(kind: str) -> None:
    evil, good = Page(PAGES[kind](EVIL)), Page(PAGES[kind]("cat.jpg"))
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in good.tags]
    assert EVIL in evil.text
    assert all(not name.startswith("on") for _, found in evil.tags for name in found)


@pytest.mark.parametrize("kind", PAGES)
def test_every_picture_and_control_has_a_name(kind: str) -> None:
    page = Page(PAGES[kind]("cat.jpg"))
    assert all(image.get("alt") for image in page.all("img"))
    assert all(slider.get("aria-label") for slider in page.all("input"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") == "true" for svg in page.all("svg"))
    assert page.all("html") == [{"lang": "en"}]


@pytest.mark.parametrize("kind", PAGES)
def test_every_inner_link_and_label_has_its_target(kind: str) -> None:
    page = Page(PAGES[kind]("cat.jpg"))
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    wanted = {(link["href"] or "")[1:] for link in page.all("a")}
    wanted |= {found["aria-labelledby"] for _, found in page.tags if "aria-labelledby" in found}
    assert wanted <= set(ids)
