"""What a report says, and what it refuses to say."""

import json
import re

import cv2
import numpy as np
import pytest
from etils import epath
from PIL import Image, ImageColor

from imx2mx_jax import session, sheets
from imx2mx_jax.errors import ReportError
from imx2mx_jax.report import measures, page, pairs, runs
from imx2mx_jax.report.__main__ import main
from tests.report import support


def words(html):
  """The text that one reads."""
  html = re.sub(r"<(style|script|svg).*?</\1>", "", html, flags=re.DOTALL)
  return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html).replace("&nbsp;", " "))


def test_a_grid_is_taken_apart_again():
  above, below = (np.stack([support.picture((row, i)) for i in range(3)]) for row in range(2))
  np.testing.assert_array_equal(sheets.split_grid(sheets.grid(above, below), 3), (above, below))


def test_a_report_says_what_was_done_on_what_and_whose_weights_they_are(tmp_path):
  text = words(page.write(support.write(tmp_path, teacher__steps=7)).read_text())
  for fact in ("“make it day”", "desk", "3 views, 6 iterations, 1:05 on an accelerator"):
    assert fact in text
  assert "1:05, 0:05 of it compiling, then 2.5 images a second" in text
  assert "23 November 2026" in text and "jax 0.10.2" in text and "teacher: somebody" in text


def test_only_settings_that_differ_from_their_defaults_are_listed(tmp_path):
  run = runs.read(support.write(tmp_path, teacher__steps=7, seed=42))
  text = words(page.render(run))
  assert "teacher.steps 7 of sampling" in text and "Default: 100" in text
  assert " seed " not in text


def test_nothing_in_a_page_comes_from_elsewhere(tmp_path):
  html = page.write(support.write(tmp_path)).read_text()
  addresses = re.findall(r'(?:src|href)="([^"]*)"', html) + re.findall(r"url\(([^)]*)\)", html)
  assert len(addresses) > 6
  assert all(address.startswith(("data:", "#")) for address in addresses)


def test_what_a_user_wrote_is_text_and_not_html(tmp_path):
  evil = '</title><script>alert("x")</script>'
  folder = support.write(tmp_path, names=('<b onclick="y">.jpg', "b.jpg"), metrics={})
  config = json.loads((folder / "config.json").read_text())
  config["settings"] |= {"instruction": evil, "scene.path": f"scenes/{evil[8:]}"}
  (folder / "config.json").write_text(json.dumps(config))
  (folder / "NOTICE").write_text(evil)
  (folder / "metrics.json").write_text(json.dumps({"absent": {evil: evil}}))
  for html in (page.render(runs.read(folder)), page.render_comparison([runs.read(folder)] * 2)):
    assert "<script>alert" not in html and "<b onclick" not in html and "</title><" not in html


def test_each_measure_stands_with_its_floor_and_its_meaning(tmp_path):
  text = words(page.render(runs.read(support.write(tmp_path))))
  assert re.search(r"Direction of the edit Whether .+? 0\.125 \W Fit", text)
  assert re.search(r"Epipolar error How far .+? 3\.75 px 0\.75 px", text)
  assert re.search(r"Pairs within 2 px Share .+? 50% 100%", text)
  assert re.search(r"Warp error Difference .+? 0\.0400 0\.0100", text)


def test_an_epipolar_error_without_matches_says_so(tmp_path):
  lost = {"epipolar": support.METRICS["epipolar"] | {"median": None}}
  text = words(page.render(runs.read(support.write(tmp_path, metrics=lost))))
  assert re.search(r"Epipolar error How far .+? too few matches 0\.75 px", text)


def test_measures_that_are_absent_say_why_and_nothing_is_made_up(tmp_path):
  metrics = {"absent": {"warp": "the depth is not known"}}
  text = words(page.render(runs.read(support.write(tmp_path, metrics=metrics))))
  assert "warp is not here: the depth is not known" in text
  assert "Warp error" not in text and "Pair by pair" not in text


def test_a_comparison_says_whose_measures_are_absent_and_why(tmp_path):
  absent = {"absent": {"warp": "the depth is not known"}}
  write = lambda name, metrics: support.write(tmp_path / name, metrics=metrics)
  compared = [runs.read(write("whole", support.METRICS)), runs.read(write("less", absent))]
  text = page.render_comparison(compared)
  assert "<b>warp</b> of less is not here: the depth is not known" in text
  assert "of whole is not here" not in text


def test_pairs_that_lost_most_come_first():
  found = measures.pairs(support.METRICS)
  assert [pair.views for pair in found] == [(1, 2), (0, 2), (0, 1)]


@pytest.mark.parametrize(("shift", "shown"), [((0, 6), 2), ((5, 6), 8), ((9, 6), np.inf)])
def test_lines_between_views_have_the_colour_of_their_error(tmp_path, shift, shown):
  """Cameras side by side, so that a point moves along its row and nowhere else."""
  folder = support.write(tmp_path, names=("a.png", "b.png"), size=96)
  view = cv2.GaussianBlur(np.random.default_rng(0).random((96, 96, 3)), (0, 0), 1.5)
  view = cv2.normalize(view, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
  cameras = {"fl_x": 96.0, "cx": 48.0, "cy": 48.0, "w": 96, "h": 96, "frames": []}
  for side, (name, image) in enumerate({"a": view, "b": np.roll(view, shift, (0, 1))}.items()):
    Image.fromarray(image).save(folder / "edited" / f"{name}.png")
    pose = np.eye(4)
    pose[0, 3] = -side
    frame = {"file_path": f"edited/{name}.png", "transform_matrix": pose.tolist()}
    cameras["frames"].append(frame)
  (folder / "transforms.json").write_text(json.dumps(cameras))
  run = runs.read(folder)
  (drawn,) = pairs.draw(run, [measures.Pair((0, 1), 9, 1.0, 1.0)])
  assert drawn.shape == (96, 192, 3)
  count = lambda colour: (drawn == ImageColor.getrgb(colour)).all(axis=-1).sum()
  counts = {most: count(colour) for most, colour in pairs.LEGEND.items()}
  assert max(counts, key=counts.get) == shown and counts[shown] > 500


def test_snapshots_are_shown_with_the_timestep_of_their_iteration(tmp_path):
  run = runs.read(support.write(tmp_path, snapshots=(2, 4, 900)))  # 900: of a stopped run
  assert [(x.iteration, x.tau) for x in run.snapshots] == [(2, 997), (4, 995)]
  np.testing.assert_array_equal(run.snapshots[0].picture, np.concatenate(run.edits))


def test_videos_are_in_the_page_as_far_as_there_is_room_and_beside_it_otherwise(tmp_path):
  folder = support.write(tmp_path)
  assert "<video" not in page.render(runs.read(folder))
  for name, size in {"render/arc": 10**3, "render/orbit": 4 * 10**6, "render/roll": 10**3}.items():
    (folder / name).mkdir(parents=True)
    (folder / name / "video.mp4").write_bytes(bytes(size))
  html = page.render(runs.read(folder))
  assert html.count('<video controls loop playsinline src="data:video/mp4;base64,AAAA') == 2
  assert "render/orbit/video.mp4 (4.0 MB, too large" in words(html)


def test_a_run_without_iterations_has_no_curves_and_can_be_compared(tmp_path):
  alone = runs.read(support.write(tmp_path / "alone", rows=0, metrics={}))
  distilled = runs.read(support.write(tmp_path / "distilled"))
  assert "<svg" not in page.render(alone)
  assert page.render_comparison([alone, distilled]).count("<svg") == 2


def test_a_page_of_large_pictures_stays_below_ten_megabytes(tmp_path, monkeypatch):
  run = runs.read(support.write(tmp_path, size=200, metrics={}))
  whole = len(page.render(run))
  monkeypatch.setattr(page, "LARGEST", whole // 2)
  monkeypatch.setattr(page, "_SIDES", (1024, 150))
  assert len(page.render(run)) <= whole // 2


def test_runs_of_the_same_views_stand_beside_each_other(tmp_path, capsys):
  folders = [support.write(tmp_path / f"steps_{n}", teacher__steps=n) for n in (5, 9)]
  out = tmp_path / "pages" / "compare.html"
  assert main(["report", *map(str, folders), f"--out={out}"]) == 0
  assert capsys.readouterr().out.strip() == str(out)
  text = words(out.read_text())
  assert "2 runs beside each other" in text
  assert "teacher.steps of sampling, when it edits the reference view 5 9" in text
  assert "distill.dt" not in text


def test_without_out_each_folder_gets_its_report(tmp_path, capsys):
  folders = [support.write(tmp_path / name) for name in "ab"]
  assert main(["report", *map(str, folders)]) == 0
  written = [str(folder / "report.html") for folder in folders]
  assert capsys.readouterr().out.split() == written
  assert "make it day" in (folders[1] / "report.html").read_text()


def test_runs_of_other_views_are_refused_in_a_sentence(tmp_path, capsys):
  folders = [support.write(tmp_path / "1"), support.write(tmp_path / "2", names=("z.jpg", "a.jpg"))]
  assert main(["report", *map(str, folders), f"--out={tmp_path / 'x.html'}"]) == 1
  error = capsys.readouterr().err
  assert error.startswith("error: ") and "shows z.jpg, a.jpg where" in error
  assert not (tmp_path / "x.html").exists()


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
  with pytest.raises(ReportError, match="holds no finished run"):
    page.write(tmp_path)


def test_a_report_that_fails_costs_the_run_a_sentence_and_no_more(tmp_path, capsys):
  session.write_report(epath.Path(tmp_path))
  said = capsys.readouterr().out
  assert said.startswith("no report was written (ReportError: ") and said.count("\n") == 1


def test_a_damaged_run_is_refused(tmp_path):
  folder = support.write(tmp_path)
  (folder / "config.json").write_text("{")
  with pytest.raises(ReportError, match="is damaged"):
    page.write(folder)
