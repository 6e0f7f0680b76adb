"""The page in a browser without a window: the whole way on micro models, a cancel, a bad file."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.browser import BROWSER
from tests.cli import support

pytest.importorskip("gradio", reason="needs the extra `app`")
playwright = pytest.importorskip("playwright.sync_api", reason="no browser driver is installed")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

PATIENCE = 300_000  # milliseconds
SMALL = support.SMALL | {"metric_clip": "none"}


@dataclasses.dataclass(frozen=True)
class Served:
  out: pathlib.Path
  address: str
  process: subprocess.Popen


@pytest.fixture(scope="module")
def served(tmp_path_factory):
  """The command in a process of its own."""
  out = tmp_path_factory.mktemp("served") / "app"
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  settings = [support.CONFIG, *(f"--config.{name}={value}" for name, value in SMALL.items())]
  options = [f"--out={out}", f"--port={port}", "--frames=6", "--steps=2"]
  process = subprocess.Popen(
    [sys.executable, "-m", "imx2mx_jax.app", *options, *settings],
    cwd=support.REPOSITORY,
    env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  with process:
    try:
      address = next(line.strip() for line in process.stdout if line.startswith("http"))
      yield Served(out, address, process)
    finally:
      process.kill()


@pytest.fixture(scope="module")
def browser():
  with playwright.sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
    yield browser
    browser.close()


@contextlib.contextmanager
def opened(browser, served, **options):
  """The page with its thumbnails; complaints of the browser and requests to others fail."""
  context = browser.new_context(**options)
  page = context.new_page()
  page.set_default_timeout(PATIENCE)
  asked, complaints = set(), []
  page.on("request", lambda request: asked.add(request.url))
  page.on("pageerror", lambda error: complaints.append(str(error)))
  page.goto(served.address)
  page.locator("#views img").first.wait_for()
  yield page
  context.close()
  assert {url for url in asked if not url.startswith((served.address, "data:", "blob:"))} == set()
  assert complaints == []


def told(page, text, at="#status"):
  """Waits until the page says this."""
  page.locator(f"{at} .told p", has_text=re.compile(text)).wait_for()


def test_a_stopped_edit_says_how_to_go_on_and_others_wait_in_a_row(served, browser):
  with opened(browser, served) as page, opened(browser, served) as other:
    page.locator("#instruction").locator("input, textarea").fill("make it day")
    page.locator("#edit").click()
    told(page, "^reading photographs and weights")
    other.locator("#preview").click()
    told(other, "^waiting: 1 job comes before this one$")
    other.locator("#cancel").click()
    told(other, "^taken out of the row; nothing was begun$")
    page.locator("#cancel").click()
    told(page, "^stopped, and the state is saved; the same button goes on from here$")
    (run,) = (served.out / "runs").glob("*make-it-day*")
    assert f"--config.run_dir={run}" in page.locator("#status .command").inner_text()
    assert (run / "state").exists() and not (run / "finished.json").exists()


@pytest.mark.slow
def test_the_whole_way_with_a_stop(served, browser, tmp_path):
  """Minutes, most of them the compiler's."""
  with opened(browser, served, accept_downloads=True) as page:
    # Two views are chosen by the settings; one more is added, and taken out again.
    page.locator("#chosen", has_text="2 views").wait_for()
    page.locator("#views .thumbnail-item").nth(5).click()
    page.locator("#chosen", has_text="3 views").wait_for()
    page.locator("#views .thumbnail-item").nth(5).click()
    page.locator("#chosen", has_text="2 views").wait_for()

    page.locator("#preview").click()
    page.locator("#sheet img").wait_for()

    page.locator("#edit").click()
    told(page, "compiling$")
    page.locator("#cancel").click()
    told(page, "^stopped, and the state is saved; the same button goes on from here$")
    (run,) = (served.out / "runs").glob("*make-it-sunset*")

    page.locator("#edit").click()
    told(page, f"^done: {run}$")
    assert len(json.loads((run / "config.json").read_text())["sessions"]) == 2
    page.locator("#slider img").first.wait_for()
    page.locator("#view label").nth(1).click()

    page.locator("#film").click()
    page.locator("#video video").wait_for()
    page.wait_for_function("document.querySelector('#video video').readyState >= 2")
    with page.expect_download() as download:
      page.locator("#download").click()
    download.value.save_as(tmp_path / "run.zip")
  names = zipfile.ZipFile(tmp_path / "run.zip").namelist()
  wanted = ("edited/000.png", "report.html", "render/arc-6-2/video.mp4", "transforms.json")
  assert {f"{run.name}/{name}" for name in wanted} <= set(names)


def test_a_bad_file_is_told_in_a_sentence(served, browser, tmp_path):
  (tmp_path / "bad.png").write_text("no picture")
  with opened(browser, served) as page:
    page.locator("#files input[type=file]").set_input_files(tmp_path / "bad.png")
    told(page, r"^bad\.png: is not a picture that can be read", at="#received")


def test_a_dropped_scene_is_opened(served, browser):
  scene = support.MICRO / "scenes" / "scene_05"
  files = [scene / "transforms.json", *sorted((scene / "images").iterdir())[:3]]
  with opened(browser, served) as page:
    page.locator("#files input[type=file]").set_input_files(files)
    page.wait_for_function("document.querySelectorAll('#views .thumbnail-item').length == 3")
    page.locator("#chosen", has_text="3 views").wait_for()


def test_a_search_for_cameras_is_stopped(served, browser, tmp_path):
  texture = np.random.default_rng(0).integers(0, 256, (12, 900, 1200, 3), np.uint8)
  for number, pixels in enumerate(texture):
    Image.fromarray(pixels).save(tmp_path / f"{number}.png", compress_level=0)
  with opened(browser, served) as page:
    page.locator("#files input[type=file]").set_input_files(sorted(tmp_path.iterdir()))
    page.locator("#stop-search").click()
    told(page, "^the search was stopped; drop the photographs again", at="#received")
    page.locator("#stop-search").wait_for(state="hidden")
  assert not [path for path in (served.out / "scenes").glob("*") if "photographs" in path.name]


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_desks_and_phones_by_day_and_by_night(served, browser, width, scheme):
  viewport = {"width": width, "height": 900}
  with opened(browser, served, viewport=viewport, color_scheme=scheme) as page:
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.locator("#views .thumbnail-item").first.bounding_box()["width"] > 70
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(map(int, re.findall(r"\d+", paper)[:3])) / 3
    assert lightness > 220 if scheme == "light" else lightness < 40


def test_it_listens_to_this_machine_alone_and_writes_below_its_folder(served):
  import psutil

  process = psutil.Process(served.process.pid)
  listening = [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
  assert set(listening) == {"127.0.0.1"}
  names = {entry.name for entry in served.out.iterdir()}
  assert names <= {"runs", "scenes", "photographs", "downloads", ".temporary"}


def test_ctrl_c_ends_it(served):
  served.process.send_signal(signal.SIGINT)
  assert served.process.wait(30) == 130
