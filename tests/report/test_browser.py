"""Reports in a browser without a window, on a desk's and on a phone's width."""

import html
import json
import re
import subprocess

import pytest

from imx2mx_jax.report import page
from tests.browser import BROWSER
from tests.report import support

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

# A window has a least width, a frame has none.
FRAME = """<!doctype html>
<meta name="color-scheme" content="light dark">
<iframe width="{}" height="900" srcdoc="{}"></iframe>
"""

# What a person would do and see, noted in the title of the page around.
PROBE = """
<script>
addEventListener("load", () => {
  const shown = [...document.images].filter((image) => !image.closest("dialog"));
  const dialog = document.querySelector("dialog");
  const seen = {
    width: innerWidth,
    overflow: document.documentElement.scrollWidth - innerWidth,
    pictures: shown.length,
    blank: shown.filter((image) => !image.naturalWidth || image.width < 20).length,
    paper: getComputedStyle(document.body).backgroundColor,
  };
  const stage = document.querySelector(".stage");
  if (stage) {
    const edges = () => [...document.querySelectorAll(".stage .before")]
      .map((image) => getComputedStyle(image).clipPath);
    const range = stage.querySelector("input");
    const drag = (to) => {
      range.value = to;
      range.dispatchEvent(new Event("input"));
      return edges();
    };
    stage.scrollIntoView();
    const box = stage.getBoundingClientRect();
    seen.hit = document.elementFromPoint(box.x + box.width / 3, box.y + 20) === range;
    seen.edges = [edges(), drag(20)];
    document.getElementById("together").click();
    seen.edges.push(drag(90));
  }
  const caption = () => dialog.querySelector(".caption").textContent;
  const press = (key) => {
    dialog.dispatchEvent(new KeyboardEvent("keydown", { key }));
    return caption();
  };
  document.querySelector(".matrix .enlarge").click();
  seen.open = dialog.open;
  seen.captions = [caption(), press("ArrowDown"), press("ArrowRight"), press("ArrowDown")];
  seen.enlarged = dialog.querySelector("img").getBoundingClientRect().width;
  dialog.querySelector("button").click();
  seen.closed = !dialog.open;
  parent.document.title = JSON.stringify(seen);
});
</script>
"""


def visited(tmp_path, report, width, *options):
  """What the probe saw; whatever the browser complains of fails."""
  file = tmp_path / "probed.html"
  file.write_text(FRAME.format(width, html.escape(report.replace("<head>", f"<head>{PROBE}"))))
  command = [
    BROWSER,
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-logging=stderr",
    f"--user-data-dir={tmp_path / 'profile'}",
    "--hide-scrollbars",
    "--window-size=1300,1000",
    *options,
    "--dump-dom",
    file.as_uri(),
  ]
  run = subprocess.run(command, capture_output=True, text=True, timeout=60)
  complaints = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
  assert not complaints
  return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", run.stdout)[1]))


def lightness(colour):
  return sum(map(int, re.findall(r"\d+", colour))) / 3


@pytest.fixture(scope="module")
def report(tmp_path_factory):
  return page.write(support.write(tmp_path_factory.mktemp("run"))).read_text()


@pytest.mark.parametrize("width", [1200, 390])
def test_a_report_works_at_every_width(report, tmp_path, width):
  seen = visited(tmp_path, report, width)
  assert seen["width"] == width and seen["overflow"] == 0
  # Dividers, all views, heat maps, three pairs, and reference, two snapshots, result.
  assert seen["pictures"] == 6 + 6 + 3 + 6 + 4 and seen["blank"] == 0
  assert seen["hit"], "something lies over the divider"
  at_rest, together, alone = seen["edges"]
  assert at_rest == ["inset(0px 50% 0px 0px)"] * 3
  assert together == ["inset(0px 80% 0px 0px)"] * 3
  assert alone == ["inset(0px 10% 0px 0px)", *together[1:]]
  assert seen["open"] and seen["closed"] and seen["enlarged"] > width / 2
  views = ["a.jpg, original", "a.jpg, edited", "b.jpg, edited", "b.jpg, edited"]
  assert seen["captions"] == views
  assert lightness(seen["paper"]) > 220


def test_a_report_is_dark_where_the_reader_wants_it(report, tmp_path):
  seen = visited(tmp_path, report, 800, "--blink-settings=preferredColorScheme=0")
  assert lightness(seen["paper"]) < 40


def test_a_comparison_moves_from_run_to_run_at_the_same_view(tmp_path):
  folders = [support.write(tmp_path / name) for name in ("one", "two")]
  compared = page.write_comparison(folders, tmp_path / "compare.html").read_text()
  seen = visited(tmp_path, compared, 390)
  assert seen["pictures"] == 9 and seen["blank"] == 0 and seen["overflow"] == 0
  assert seen["captions"] == ["a.jpg, original", "a.jpg, one", "b.jpg, one", "b.jpg, two"]
