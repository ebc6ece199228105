"""The page of the endpoint: what goes out, and what a person can do with it in a browser."""

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from browser_for_tests import gather_complaints, headless_browser
from PIL import Image as PillowImage
from playwright.sync_api import Browser, FilePayload, Locator, Page, Request, Route, expect

from pipelines.enhance_object import ObjectStages, RunSettings, Worker, naming
from pipelines.folder_store import FolderStore
from pipelines.serve_page import PATHS, POLICY, page_file
from pipelines.worklist import Work
from resnet_core.images import decode
from resnet_core.weights import load_weights

ENHANCE = "**/v1/enhance?*"
MAX_BYTES, MAX_PIXELS = 2_000_000, 500_000
KEY = "a-key-of-the-tests-1"
ORIENTATION = 0x112
PHONE, DESKTOP = (360, 740), (1280, 800)
NO_SIZE_LIMIT = 10**9
LONGEST_WAIT_MS = 300_000
"""For what comes soon on any machine; the time is only for what never comes."""
expect.set_options(timeout=LONGEST_WAIT_MS)


# What goes out


def text_of(path: str) -> str:
    found = page_file(path)
    assert found is not None
    return found.data.decode("utf-8")


@pytest.mark.parametrize("path", PATHS)
def test_every_file_goes_out_with_a_strict_policy(path: str) -> None:
    found = page_file(path)
    assert found is not None
    assert found.headers["Content-Security-Policy"] == POLICY
    assert found.headers["X-Content-Type-Options"] == "nosniff"
    assert found.headers["Referrer-Policy"] == "no-referrer"
    assert found.data


def test_the_policy_allows_this_server_alone_and_nothing_inline() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["img-src"] == "'self' blob: data:"
    assert rules["frame-ancestors"] == rules["form-action"] == rules["base-uri"] == "'none'"
    assert "unsafe" not in POLICY


@pytest.mark.parametrize("path", ["/index.html", "/assets/", "/assets/../serve_page.py", "", "/v1"])
def test_there_is_nothing_else(path: str) -> None:
    assert page_file(path) is None


def test_headers_of_one_answer_are_not_those_of_the_next() -> None:
    first, second = page_file("/"), page_file("/")
    assert first is not None
    assert second is not None
    first.headers["X-Request"] = "1"
    assert "X-Request" not in second.headers


def test_the_page_asks_for_its_own_files_only() -> None:
    html = text_of("/")
    styles, scripts = text_of("/assets/serve.css"), [x for x in PATHS if x.endswith(".js")]
    linked = {f"/{path}" for path in re.findall(r'(?:src|href)="(assets/[^"]*)"', html)}
    linked |= {f"/assets/{name}" for name in re.findall(r'url\("([^"]*)"\)', styles)}
    for script in scripts:
        linked |= {f"/assets/{name}" for name in re.findall(r'from "\./(.*?)"', text_of(script))}
    assert linked == set(PATHS) - {"/"}
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html)
    for path in PATHS:
        assert set(re.findall(r"https?://[\w./]+", text_of(path))) <= {"http://www.w3.org/2000/svg"}


# What a person can do


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of `resray serve`, which wants a key."""
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--port", "0"]
    command += ["--weights", "sr-x2", "sr-x4"]
    command += ["--max-bytes", str(MAX_BYTES), "--max-pixels", str(MAX_PIXELS)]
    environment = os.environ | {"RESRAY_API_KEYS": KEY}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        told: list[str] = []
        for line in process.stdout:
            told.append(line)
            if found := re.search(r"http://\S+", line):
                break
        else:
            pytest.fail("".join(["`resray serve` ended at its start: ", *told]))
        yield found[0]
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert process.returncode == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with headless_browser() as chromium:
        yield chromium


@pytest.fixture
def page(browser: Browser, server: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, opened, with a key; its size is the test's parameter. See `opened_page`."""
    with opened_page(browser, getattr(request, "param", DESKTOP)) as page:
        page.add_init_script(f"sessionStorage.setItem('resray-key', '{KEY}')")
        page.goto(server)
        expect(page.locator("#accepts")).to_contain_text("JPEG")
        yield page


@contextmanager
def opened_page(browser: Browser, size: tuple[int, int]) -> Generator[Page]:
    """An empty tab. Nothing may be complained of until the block ends."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, reduced_motion="reduce", has_touch=True
    )
    page = context.new_page()
    page.set_default_timeout(LONGEST_WAIT_MS)
    complaints = gather_complaints(page)
    yield page
    context.close()
    assert complaints == []


def watch_queries(page: Page) -> list[dict[str, str]]:
    """The queries of the requests to enhance that the page sends from now on."""
    queries: list[dict[str, str]] = []

    def on_request(request: Request) -> None:
        url = urlsplit(request.url)
        if url.path == "/v1/enhance":
            queries.append(dict(parse_qsl(url.query)))

    page.on("request", on_request)
    return queries


def crop(examples_dir: Path, name: str = "osprey.jpg", size: tuple[int, int] = (96, 64)) -> Any:
    """A detail of a photograph that is like none of its mirror images."""
    with PillowImage.open(examples_dir / name) as image:
        left, top = image.width // 3, image.height // 3
        return image.convert("RGB").crop((left, top, left + size[0], top + size[1]))


def saved(image: PillowImage.Image, format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def file_of(name: str, data: bytes, media_type: str = "") -> FilePayload:
    return {"name": name, "mimeType": media_type, "buffer": data}


def give(page: Page, name: str, data: bytes, media_type: str = "") -> None:
    page.set_input_files("#file", file_of(name, data, media_type))


def finished(page: Page) -> Locator:
    """Waits for a result; the link that downloads it."""
    link = page.locator("#download[href]")
    expect(link).to_be_visible()
    return link


def download(page: Page) -> tuple[str, bytes]:
    """The name and bytes of the file that a person gets."""
    with page.expect_download() as started:
        finished(page).click()
    return started.value.suggested_filename, Path(started.value.path()).read_bytes()


def pixels_of(data: bytes) -> Any:
    return decode(data, max_pixels=NO_SIZE_LIMIT, max_bytes=NO_SIZE_LIMIT).pixels


def enhanced_in_bulk(folder: Path, name: str, data: bytes, **settings: Any) -> bytes:
    """What `resray enhance` writes for this object and these settings."""
    weights = load_weights(settings.pop("weights", "sr-x2"))
    run = RunSettings(weights_name=weights.name, weights_sha256=weights.sha256, **settings)
    source, target = (
        FolderStore(root=folder / part, temporary=folder / "temporary") for part in ("in", "out")
    )
    source.put(name, data)
    worker = Worker(
        stages=ObjectStages(source=source, target=target, settings=run),
        weights=(weights.name,),
        threads=1,
        batch_px=None,
        memory_px=NO_SIZE_LIMIT,
    )
    changed_key = naming(run.format).changed_key(name)
    row = worker.whole()(Work(key=name, bytes=len(data), etag="", changed_key=changed_key))
    assert row.status == "ok", row.reason
    return target.get(row.out_key).data


def divider_of(page: Page) -> Locator:
    return page.get_by_role("slider", name="Divider between before and after")


def picture_ratio(page: Page) -> dict[str, list[int]]:
    """Width and height of both pictures under the divider, in their own pixels."""
    return page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".canvas img")].map(
          (image) => [image.className, [image.naturalWidth, image.naturalHeight]]))"""
    )


def mean_difference(page: Page) -> float:
    """Between what is seen of before and of after, both made small, in levels."""
    return page.evaluate(
        """() => {
          const [width, height] = [48, 48];
          const read = (kind) => {
            const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
            context.drawImage(document.querySelector(`.canvas img.${kind}`), 0, 0, width, height);
            return context.getImageData(0, 0, width, height).data;
          };
          const before = read("before"), after = read("after");
          return before.reduce((sum, x, at) => sum + Math.abs(x - after[at]), 0) / before.length;
        }"""
    )


@pytest.mark.ray
@pytest.mark.browser
@pytest.mark.parametrize("page", [PHONE, DESKTOP], indirect=True)
def test_from_a_photograph_to_the_pixels_of_a_bulk_run(
    page: Page, examples_dir: Path, tmp_path: Path
) -> None:
    queries = watch_queries(page)
    data = saved(crop(examples_dir), quality=90)
    give(page, "osprey.jpg", data, "image/jpeg")
    name, better = download(page)
    assert name == "osprey-sr-x2.jpg"
    assert np.array_equal(
        pixels_of(better), pixels_of(enhanced_in_bulk(tmp_path / "first", "osprey.jpg", data))
    )
    assert picture_ratio(page) == {"before": [96, 64], "after": [192, 128]}
    expect(page.locator("#sizes")).to_have_text(re.compile(r"96\D+64\D+192\D+128"))

    divider = divider_of(page)
    expect(divider).to_have_attribute("aria-valuenow", "50")
    box = page.locator(".canvas").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, middle, steps=4)
    page.mouse.up()
    expect(divider).to_have_attribute("aria-valuenow", re.compile("^2[456]$"))
    page.keyboard.press("End")
    expect(divider).to_have_attribute("aria-valuetext", "100 % before, 0 % after")
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    page.keyboard.press("ArrowRight")
    expect(divider).to_have_attribute("aria-valuenow", "12")

    page.get_by_label("Strength").fill("0.5")
    expect(finished(page)).to_have_attribute("download", "osprey-sr-x2-strength-0.5.jpg")
    name, weaker = download(page)
    expected = enhanced_in_bulk(tmp_path / "second", "osprey.jpg", data, strength=0.5)
    assert np.array_equal(pixels_of(weaker), pixels_of(expected))
    assert not np.array_equal(pixels_of(weaker), pixels_of(better))
    expect(divider).to_have_attribute("aria-valuenow", "12")
    assert queries == [{"weights": "sr-x2"}, {"weights": "sr-x2", "strength": "0.5"}]


@pytest.mark.ray
@pytest.mark.browser
@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_a_finger_moves_the_divider_and_pans_a_zoomed_picture(
    page: Page, examples_dir: Path
) -> None:
    give(page, "a.png", saved(crop(examples_dir, size=(320, 280)), "PNG"), "image/png")
    finished(page)
    touch = page.context.new_cdp_session(page)

    def swipe(x: float, y: float, across: float) -> None:
        for step in range(6):
            kind = "touchStart" if step == 0 else "touchMove"
            points = [{"x": x + across * step / 5, "y": y}]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    box = page.locator(".view").bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    swipe(*middle, box["width"] / 4)
    expect(divider_of(page)).to_have_attribute("aria-valuenow", re.compile("^7[3-7]$"))
    page.get_by_role("button", name="200 %").click()
    view = page.locator(".view")
    left = view.evaluate("(element) => element.scrollLeft")
    watch_scroll(view, left)
    swipe(middle[0] - 60, middle[1], -50)
    expect(view).to_have_attribute("data-scrolled", "true")
    expect(divider_of(page)).to_have_attribute("aria-valuenow", re.compile("^7[3-7]$"))


def watch_scroll(view: Locator, left: float) -> None:
    """Notes as `data-scrolled` whether the view is right of `left`."""
    view.evaluate(
        """(element, left) => element.addEventListener("scroll", () => {
          element.dataset.scrolled = String(element.scrollLeft > left);
        })""",
        left,
    )


@pytest.mark.ray
@pytest.mark.browser
def test_weights_format_quality_and_metadata_are_those_of_a_bulk_run(
    page: Page, examples_dir: Path, tmp_path: Path
) -> None:
    data = saved(crop(examples_dir, size=(64, 48)), "PNG")
    give(page, "a photograph.png", data, "image/png")
    finished(page)
    page.get_by_text("More", exact=True).click()
    expect(page.get_by_label("Quality")).to_be_disabled()
    page.get_by_label("Weights").select_option("sr-x4")
    page.get_by_label("Format").select_option("WebP")
    expect(page.get_by_label("Quality")).to_be_enabled()
    page.get_by_label("Quality").fill("70")
    page.get_by_label("Metadata").select_option("Remove")
    name, better = download(page)
    assert name == "a photograph-sr-x4.webp"
    expected = enhanced_in_bulk(
        tmp_path,
        "a photograph.png",
        data,
        weights="sr-x4",
        format="WEBP",
        quality=70,
        metadata="strip",
    )
    assert better == expected

    page.get_by_text("The same from a program").click()
    command = page.locator("#command").inner_text()
    (tmp_path / "a photograph.png").write_bytes(data)
    environment = os.environ | {"RESRAY_API_KEY": KEY}
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / name).read_bytes() == better


@pytest.mark.ray
@pytest.mark.browser
def test_a_quality_out_of_range_is_not_sent(page: Page, examples_dir: Path) -> None:
    queries = watch_queries(page)
    give(page, "a.jpg", saved(crop(examples_dir)), "image/jpeg")
    finished(page)
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Quality").fill("700")
    page.get_by_label("Quality").fill("70")
    expect(finished(page)).to_be_visible()
    assert [query.get("quality") for query in queries] == [None, "70"]


@pytest.mark.ray
@pytest.mark.browser
@pytest.mark.parametrize("page", [PHONE, DESKTOP], indirect=True)
def test_what_is_too_large_is_said_before_it_is_sent(page: Page) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    notice = page.get_by_role("alert")
    give(page, "scan.png", b"\0" * (MAX_BYTES + 1), "image/png")
    expect(notice).to_contain_text("This picture is too large. scan.png has 2.0 MB; ")
    wide = PillowImage.new("L", (MAX_PIXELS // 100 + 1, 100))
    give(page, "wide.png", saved(wide, "PNG"), "image/png")
    expect(notice).to_contain_text(re.compile(r"5001\D+100 are .* up to 0\.5 megapixels"))
    give(page, "nothing.jpg", b"", "image/jpeg")
    expect(notice).to_contain_text("This file is empty.")
    assert [url for url in sent if "/v1/" in url] == []


@pytest.mark.ray
@pytest.mark.browser
@pytest.mark.parametrize("page", [PHONE, DESKTOP], indirect=True)
def test_what_is_no_picture_is_said_in_the_servers_words(page: Page, examples_dir: Path) -> None:
    give(page, "letter.pdf", b"%PDF-1.7 and no picture", "application/pdf")
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("Not an image that is read. Expected one of JPEG")
    expect(notice).to_contain_text("found PDF")
    expect(notice.get_by_role("button", name="Try again")).to_be_hidden()
    expect(page.get_by_role("button", name="Choose a file")).to_be_focused()
    give(page, "half.jpg", saved(crop(examples_dir))[:900], "image/jpeg")
    expect(notice).to_contain_text("The image is broken. JPEG is truncated")
    give(page, "whole.jpg", saved(crop(examples_dir)), "image/jpeg")
    finished(page)
    expect(notice).to_be_hidden()


@contextmanager
def held_back(page: Page) -> Generator[list[Route]]:
    """The first request to enhance gets no answer until the block ends; the others go through."""
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route(ENHANCE, hold_the_first)
    yield held
    for route in held:
        route.abort()
    page.unroute(ENHANCE)


def full(route: Route, **headers: str) -> None:
    route.fulfill(
        status=503,
        headers={"Content-Type": "application/problem+json"} | headers,
        body='{"type":"about:blank","title":"Too much is waiting already","status":503,'
        '"detail":"64 requests wait, which is the limit"}',
    )


@pytest.mark.ray
@pytest.mark.browser
def test_a_full_server_is_asked_again_once_when_it_said(page: Page, examples_dir: Path) -> None:
    page.clock.install(time=0)
    page.clock.pause_at(1)
    refused: list[int] = []

    def answer(route: Route) -> None:
        refused.append(1)
        full(route, **{"Retry-After": "30"})

    page.route(ENHANCE, answer)
    give(page, "a.jpg", saved(crop(examples_dir)), "image/jpeg")
    expect(page.locator("#phase")).to_have_text("The server is busy; again in 30 seconds")
    page.clock.run_for(29_000)
    assert len(refused) == 1
    page.clock.run_for(1_000)
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text(
        "Too much is waiting already. 64 requests wait, which is the limit."
    )
    assert len(refused) == 2
    page.clock.resume()
    page.unroute(ENHANCE)
    notice.get_by_role("button", name="Try again").click()
    finished(page)
    expect(notice).to_be_hidden()


@pytest.mark.ray
@pytest.mark.browser
def test_a_network_that_went_away_is_said_and_can_come_back(page: Page, examples_dir: Path) -> None:
    page.route(ENHANCE, lambda route: route.abort("connectionreset"))
    give(page, "a.jpg", saved(crop(examples_dir)), "image/jpeg")
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("The server can't be reached.")
    page.unroute(ENHANCE)
    notice.get_by_role("button", name="Try again").click()
    finished(page)


@pytest.mark.ray
@pytest.mark.browser
@pytest.mark.parametrize(
    ("status", "words"),
    [(502, "The server doesn't answer."), (504, "The server took too long."), (418, "That didn't")],
)
def test_an_answer_without_a_reason_still_has_words(
    page: Page, examples_dir: Path, status: int, words: str
) -> None:
    page.route(ENHANCE, lambda route: route.fulfill(status=status, body="<h1>no</h1>"))
    give(page, "a.jpg", saved(crop(examples_dir)), "image/jpeg")
    expect(page.get_by_role("alert")).to_contain_text(words)


@pytest.mark.ray
@pytest.mark.browser
def test_a_server_that_is_away_at_the_start_can_be_asked_again(
    page: Page, server: str, examples_dir: Path
) -> None:
    page.route("**/v1/models", lambda route: route.abort())
    page.goto(server)
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("The server can't be reached.")
    page.unroute("**/v1/models")
    give(page, "a.jpg", saved(crop(examples_dir)), "image/jpeg")
    finished(page)


@pytest.mark.ray
@pytest.mark.browser
def test_a_moving_slider_asks_once_and_drops_the_older_request(
    page: Page, examples_dir: Path
) -> None:
    queries = watch_queries(page)
    give(page, "a.jpg", saved(crop(examples_dir)), "image/jpeg")
    finished(page)
    dropped: list[str] = []
    page.on("requestfailed", lambda request: dropped.append(request.url))
    page.clock.install(time=0)
    page.clock.pause_at(1)
    strength = page.get_by_label("Strength")
    with held_back(page) as held:
        for _ in range(5):
            strength.press("ArrowRight")
        page.clock.run_for(1_000)
        expect(page.locator("#busy")).to_be_visible()
        expect(strength).to_have_value("1.25")
        strength.press("ArrowRight")
        page.clock.run_for(1_000)
        page.clock.resume()
        expect(finished(page)).to_have_attribute("download", "a-sr-x2-strength-1.3.jpg")
        assert len(held) == 1
    assert [re.findall(r"strength=([\d.]+)", url) for url in dropped] == [["1.25"]]
    assert queries[-1]["strength"] == "1.3"


@pytest.mark.ray
@pytest.mark.browser
def test_a_request_can_be_stopped_and_started_again(page: Page, examples_dir: Path) -> None:
    with held_back(page):
        give(page, "a.jpg", saved(crop(examples_dir)), "image/jpeg")
        page.get_by_role("button", name="Stop").click()
        notice = page.get_by_role("alert")
        expect(notice).to_contain_text("Stopped.")
        expect(page.locator("#busy")).to_be_hidden()
    notice.get_by_role("button", name="Try again").click()
    finished(page)


@pytest.mark.ray
@pytest.mark.browser
@pytest.mark.parametrize("orientation", [2, 6])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_a_turned_photograph_lines_up(
    page: Page, examples_dir: Path, format: str, orientation: int
) -> None:
    exif = PillowImage.Exif()
    exif[ORIENTATION] = orientation
    image = crop(examples_dir)
    image.paste((250, 250, 250), (0, 0, 60, 20))
    data = saved(image, format, exif=exif)
    give(page, f"turned.{format.lower()}", data, f"image/{format.lower()}")
    finished(page)
    sizes = picture_ratio(page)
    assert sizes["after"] == ([128, 192] if orientation > 4 else [192, 128])
    assert np.array(sizes["after"]).tolist() in ([2 * x for x in sizes["before"]], sizes["before"])
    assert mean_difference(page) < 6


@pytest.mark.ray
@pytest.mark.browser
def test_transparent_pictures_lie_over_a_checkerboard(page: Page, examples_dir: Path) -> None:
    image = crop(examples_dir)
    image.putalpha(PillowImage.linear_gradient("L").resize(image.size))
    give(page, "glass.png", saved(image, "PNG"), "image/png")
    finished(page)
    canvas = page.locator(".canvas")
    expect(canvas).to_have_css("background-image", re.compile("conic-gradient"))
    cuts = [page.locator(f".canvas img.{kind}") for kind in ("before", "after")]
    for picture in cuts:
        expect(picture).to_have_css("clip-path", re.compile(r"^inset\("))
    _, better = download(page)
    with PillowImage.open(io.BytesIO(better)) as result:
        assert result.mode == "RGBA"


@pytest.mark.ray
@pytest.mark.browser
def test_what_a_browser_cannot_show_is_shown_as_a_copy_and_kept_as_it_is(
    page: Page, examples_dir: Path, tmp_path: Path
) -> None:
    data = saved(crop(examples_dir), "TIFF")
    give(page, "scan.tif", data, "image/tiff")
    finished(page)
    expect(page.locator("#download-note")).to_contain_text("can't show this format")
    assert picture_ratio(page) == {"before": [192, 128], "after": [192, 128]}
    name, better = download(page)
    assert name == "scan-sr-x2.tif"
    assert better == enhanced_in_bulk(tmp_path, "scan.tif", data)


@pytest.mark.ray
@pytest.mark.browser
def test_a_result_that_cannot_be_shown_can_still_be_kept(page: Page, examples_dir: Path) -> None:
    page.route("**/v1/enhance?*format=png*", full)
    give(page, "scan.tif", saved(crop(examples_dir), "TIFF"), "image/tiff")
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("The result can't be shown here. You can download it.")
    name, better = download(page)
    assert name == "scan-sr-x2.tif"
    assert pixels_of(better).shape == (128, 192, 3)


@pytest.mark.ray
@pytest.mark.browser
def test_the_ending_tells_the_real_format(page: Page, examples_dir: Path) -> None:
    give(page, "lies.png", saved(crop(examples_dir), "GIF"), "image/png")
    assert download(page)[0] == "lies-sr-x2.png"
    give(page, "really a photograph.png", saved(crop(examples_dir)), "image/png")
    assert download(page)[0] == "really a photograph-sr-x2.jpg"
    give(page, "no ending", saved(crop(examples_dir)), "")
    assert download(page)[0] == "no ending-sr-x2.jpg"
    give(page, "kept.JPEG", saved(crop(examples_dir)), "image/jpeg")
    assert download(page)[0] == "kept-sr-x2.JPEG"


@pytest.mark.ray
@pytest.mark.browser
@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_photograph_can_be_dropped_and_pasted(page: Page, examples_dir: Path, way: str) -> None:
    data = list(saved(crop(examples_dir)))
    page.evaluate(
        """([way, data]) => {
          const file = new File([new Uint8Array(data)], "given.jpg", { type: "image/jpeg" });
          const transfer = new DataTransfer();
          transfer.items.add(file);
          const options = { bubbles: true, cancelable: true };
          if (way === "paste") {
            document.body.dispatchEvent(
              new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
            return;
          }
          const drag = (kind) => document.body.dispatchEvent(
            new DragEvent(kind, { ...options, dataTransfer: transfer }));
          drag("dragover");
          if (!document.querySelector("#veil").matches(".open")) throw new Error("no veil");
          drag("drop");
        }""",
        [way, data],
    )
    assert download(page)[0] == "given-sr-x2.jpg"
    expect(page.locator("#veil")).not_to_have_class(re.compile("open"))


@pytest.mark.ray
@pytest.mark.browser
def test_a_drop_without_a_file_is_said(page: Page) -> None:
    page.evaluate(
        """() => document.body.dispatchEvent(new DragEvent(
          "drop", { bubbles: true, cancelable: true, dataTransfer: new DataTransfer() }))"""
    )
    expect(page.get_by_role("alert")).to_contain_text("That holds no picture.")


@pytest.mark.ray
@pytest.mark.browser
def test_a_key_is_asked_for_kept_for_the_tab_and_asked_for_again(
    browser: Browser, server: str, examples_dir: Path
) -> None:
    with opened_page(browser, DESKTOP) as page:
        page.goto(server)
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        for name in ("older.jpg", "a.jpg"):
            give(page, name, saved(crop(examples_dir)), "image/jpeg")
        # No header can hold it: it isn't sent.
        dialog.get_by_label("Key").fill("ключ")
        dialog.get_by_role("button", name="Go on").click()
        assert not dialog.get_by_label("Key").evaluate("(element) => element.validity.valid")
        for key, title in (("wrong", "This server wants a key"), (KEY, "That key isn't accepted")):
            expect(dialog).to_contain_text(title)
            dialog.get_by_label("Key").fill(key)
            dialog.get_by_role("button", name="Go on").click()
        expect(dialog).to_be_hidden()
        finished(page)
        expect(page.locator("#photo-name")).to_have_text("a.jpg")
        expect(page.locator("#command")).to_contain_text("Authorization: Bearer $RESRAY_API_KEY")
        assert KEY not in page.content()
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.evaluate("sessionStorage.setItem('resray-key', 'withdrawn')")
        page.get_by_label("Strength").fill("0.5")
        expect(dialog).to_contain_text("That key isn't accepted")
        dialog.get_by_label("Key").press("Escape")
        notice = page.get_by_role("alert")
        expect(notice).to_contain_text("An API key is needed.")
        notice.get_by_role("button", name="Try again").click()
        dialog.get_by_label("Key").fill(KEY)
        dialog.get_by_label("Key").press("Enter")
        finished(page)


@pytest.mark.ray
@pytest.mark.browser
@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_a_phone_needs_no_scrolling_sideways(page: Page, examples_dir: Path) -> None:
    def check() -> None:
        wide = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
        assert wide == [PHONE[0], PHONE[0]]

    check()
    give(page, "x" * 200 + ".jpg", b"\0" * (MAX_BYTES + 1), "image/jpeg")
    expect(page.get_by_role("alert")).to_be_visible()
    check()
    with held_back(page):
        give(page, "x" * 200 + ".jpg", saved(crop(examples_dir)), "image/jpeg")
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        check()
        page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Try again").click()
    finished(page)
    for summary in page.locator("summary").all():
        summary.click()
    check()
    page.get_by_role("button", name="200 %").click()
    check()


def tab_to(page: Page, target: Locator) -> None:
    """Presses Tab until the target has the focus, which must be seen."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if target.evaluate("(element) => element === document.activeElement"):
            assert target.evaluate("(element) => element.matches(':focus-visible')")
            return
    pytest.fail(f"{target} can't be reached by Tab")


@pytest.mark.ray
@pytest.mark.browser
def test_the_keyboard_alone_can_do_everything(page: Page, examples_dir: Path) -> None:
    with page.expect_file_chooser() as chooser:
        tab_to(page, page.get_by_role("button", name="Choose a file"))
        page.keyboard.press("Enter")
    chooser.value.set_files(file_of("a.jpg", saved(crop(examples_dir)), "image/jpeg"))
    finished(page)
    expect(page.locator("#photo-name")).to_be_focused()

    divider = divider_of(page)
    tab_to(page, divider)
    page.keyboard.press("ArrowLeft")
    expect(divider).to_have_attribute("aria-valuenow", "48")
    tab_to(page, page.get_by_role("button", name="200 %"))
    page.keyboard.press("Enter")
    page.set_viewport_size({"width": 400, "height": 700})
    view = page.get_by_role("group", name="The picture, zoomed")
    page.get_by_role("button", name="Another photograph").focus()
    tab_to(page, view)
    view.evaluate("(element) => element.scrollTo(0, 0)")
    watch_scroll(view, 0)
    page.keyboard.press("ArrowRight")
    expect(view).to_have_attribute("data-scrolled", "true")

    tab_to(page, page.get_by_label("Weights"))
    page.keyboard.type("sr-x4")
    expect(finished(page)).to_have_attribute("download", "a-sr-x4.jpg")
    tab_to(page, page.get_by_label("Strength"))
    page.keyboard.press("ArrowLeft")
    expect(finished(page)).to_have_attribute("download", "a-sr-x4-strength-0.95.jpg")
    tab_to(page, page.locator("summary", has_text="More"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_label("Format"))
    page.keyboard.type("PNG")
    expect(finished(page)).to_have_attribute("download", "a-sr-x4-strength-0.95.png")
    tab_to(page, page.locator("#download"))
    with page.expect_download() as started:
        page.keyboard.press("Enter")
    assert Path(started.value.path()).read_bytes().startswith(b"\x89PNG")


@pytest.mark.ray
@pytest.mark.browser
def test_zoom_keeps_the_place_and_dragging_moves_it(page: Page, examples_dir: Path) -> None:
    give(page, "a.png", saved(crop(examples_dir, size=(400, 280)), "PNG"), "image/png")
    finished(page)
    canvas, view = page.locator(".canvas"), page.locator(".view")
    page.get_by_role("button", name="200 %").click()
    assert canvas.evaluate("(element) => [element.offsetWidth, element.offsetHeight]") == [
        1600,
        1120,
    ]
    middle = "(e) => [e.scrollLeft + e.clientWidth / 2, e.scrollTop + e.clientHeight / 2]"
    assert view.evaluate(middle) == pytest.approx([800, 560], abs=1)
    box = view.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4 - 60, box["y"] + box["height"] / 2 - 40, steps=6)
    page.mouse.up()
    assert view.evaluate(middle) == pytest.approx([860, 600], abs=2)
    page.get_by_role("button", name="100 %").click()
    assert view.evaluate(middle) == pytest.approx([430, 300], abs=40)
