"""python -m imx2mx_jax.main, from the command line to the folder that it leaves."""

import json
import pathlib
import re
import runpy

import jax
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from imx2mx_jax import config, weights
from imx2mx_jax.main import main
from tests.cli import support

NAMES = ["000.png", "002.png"]


def picture(path):
  return np.asarray(Image.open(path))


def events(folder):
  """{tag: {step: value}} of what TensorBoard shows, in the order of the files."""
  shown = {}
  for file in sorted(folder.glob("events.out.tfevents.*")):
    for event in EventFileLoader(str(file)).Load():
      if event.HasField("session_log"):
        shown = {tag: {s: v for s, v in x.items() if s < event.step} for tag, x in shown.items()}
      for value in event.summary.value:
        shown.setdefault(value.tag, {})[event.step] = value
  return shown


def test_the_first_line_comes_within_five_seconds(finished):
  assert finished.seconds_to_first_line < 5
  assert "make it sunset" in finished.lines[0]


def test_the_last_line_is_the_run_folder(finished):
  assert pathlib.Path(finished.lines[-1]) == finished.folder


def test_every_call_is_a_line_with_the_time_left(finished):
  lines = [line for line in finished.lines if line.startswith("iteration")]
  assert len(lines) == support.TOTAL / 2
  assert all(re.search(r"\d:\d\d left$", line) for line in lines)
  assert f"{support.TOTAL} of {support.TOTAL}" in lines[-1]


def test_edited_views_bear_their_inputs_names(finished):
  edited = finished.folder / "edited"
  assert sorted(path.name for path in edited.iterdir()) == NAMES
  assert picture(edited / NAMES[0]).shape == (32, 32, 3)
  assert (picture(edited / NAMES[0]) != picture(edited / NAMES[1])).any()


def test_the_grid_has_the_inputs_above_the_edits(finished):
  grid, gap = picture(finished.folder / "grid.png"), 4
  below = grid[2 * gap + 32 : -gap]
  for view, name in enumerate(reversed(NAMES)):  # chosen as 2,0
    left = gap + view * (32 + gap)
    edit = picture(finished.folder / "edited" / name)
    np.testing.assert_array_equal(below[:, left : left + 32], edit)
    source = Image.open(support.MICRO / "scenes" / "scene_05" / "images" / name).resize((32, 32))
    assert np.abs(grid[gap : gap + 32, left : left + 32] - np.float32(source)).mean() < 5


def test_the_reference_is_a_picture_of_the_students_size(finished):
  assert picture(finished.folder / "reference.png").shape == (32, 32, 3)


def test_every_iteration_has_a_line_of_metrics(finished):
  lines = (finished.folder / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [row["iteration"] for row in rows] == list(range(1, support.TOTAL + 1))
  assert {"loss", "lr", "grad_norm", "t", "tau", "images_per_second"} <= rows[0].keys()
  assert [row["tau"] for row in rows] == [999] * 8 + [599] * 2 + [199] * 2


def test_the_time_to_compile_is_told_apart_from_the_iterations(finished):
  assert sum(line.startswith("compiled in") for line in finished.lines) == 1
  lines = (finished.folder / "metrics.jsonl").read_text().splitlines()
  assert all(json.loads(line)["compile_seconds"] > 0 for line in lines)


def test_tensorboard_shows_the_same_numbers_and_some_pictures(finished):
  shown = events(finished.folder)
  for row in support.journal(finished.folder):
    for name in ("loss", "lr", "grad_norm"):
      value = shown[name][row["iteration"]]
      assert value.tensor.float_val[0] == pytest.approx(row[name], rel=1e-6)
  assert list(shown["views"]) == [6, 12]


def test_the_run_ends_with_a_report_of_all_that_it_did(finished):
  html = (finished.folder / "report.html").read_text()
  assert len(html) < 10_000_000
  for fact in ("“make it sunset”", "000.png, edited", "timestep 199, after iteration 12"):
    assert fact in html


def test_the_settings_are_kept_with_their_provenance(finished):
  kept = json.loads((finished.folder / "config.json").read_text())
  assert kept["settings"]["instruction"] == "make it sunset"
  assert kept["settings"]["scene.frames"] == [2, 0]
  assert kept["settings"]["dtype"] == "float32"
  assert kept["sessions"][0]["packages"]["jax"] == jax.__version__
  assert set(kept["read"]) == {
    "scene.path",
    "teacher.weights",
    "student.weights",
    "student.vae",
    "student.image_encoder",
  }


def test_the_notice_names_every_models_licence(finished):
  notice = (finished.folder / "NOTICE").read_text()
  for kind in ("teacher", "student", "student_vae", "image_encoder", "metric_clip"):
    info = weights.read_info(support.MICRO / "bundled" / kind, kind)
    assert f"{kind}: {info.source}\nlicence: {info.licence}" in notice
    assert info.notice in notice


def test_the_personalised_student_can_be_loaded_and_has_learned(finished):
  ours = weights.load(finished.folder / "student", "student")["seva"]
  before = weights.load(support.MICRO / "bundled" / "student", "student")["seva"]
  assert weights.read_info(finished.folder / "student", "student").source.endswith("make it sunset")
  changed = [path for path in before.params if (ours.params[path] != before.params[path]).any()]
  assert len(changed) > len(before.params) / 2


def test_a_finished_run_is_not_written_again(finished, capsys):
  before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
  error = support.refused(capsys, finished.folder)
  assert "finished" in error and "--config.run_dir" in error
  assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before


def test_a_preview_shows_nine_edits_and_stops(tmp_path, cache):
  folder = tmp_path / "run"
  alone = {"student__weights": "none", "student__vae": "none", "student__image_encoder": "none"}
  lines = support.ran(cache, folder, preview=True, teacher__text_guidance=4.0, **alone)
  assert "text 4, image 1, in" in lines[-2]
  assert pathlib.Path(lines[-1]) == folder / "preview.png"
  assert [path.name for path in folder.iterdir()] == ["preview.png"]
  sheet = picture(folder / "preview.png")
  frame = np.argwhere((sheet == [255, 0, 0]).all(axis=-1))
  middle = (frame.min(axis=0) + frame.max(axis=0)) / 2
  np.testing.assert_allclose(middle, np.array(sheet.shape[:2]) / 2, atol=1)


def test_views_that_are_edited_each_by_itself_need_and_leave_no_student(tmp_path, cache):
  folder = tmp_path / "run"
  support.ran(cache, folder, method="teacher_only", student__weights="none", output__state=False)
  assert "image_encoder" not in (folder / "NOTICE").read_text()
  assert sorted(path.name for path in (folder / "edited").iterdir()) == NAMES
  assert (folder / "finished.json").exists()
  assert not (folder / "student").exists() and not (folder / "state").exists()


def test_help_explains_every_field(capsys):
  assert main(["main", "--help"]) == 0
  text = capsys.readouterr().out
  for name in config.flat(config.default()):
    assert f"--config.{name}: " in text, f"{name} has no comment"


@pytest.mark.parametrize("edit", runpy.run_path(f"{support.REPOSITORY}/configs/paper.py")["EDITS"])
def test_the_papers_edits_resolve(edit):
  tree = config.parse(["main", f"--config={support.REPOSITORY}/configs/paper.py:{edit}"])
  run = config.resolve(tree, platform="gpu")
  assert run.run_dir == f"runs/{edit}"
  assert run.dtype == "bfloat16"
  assert run.distill == config.DistillConfig()


def test_the_default_folder_is_named_after_scene_and_instruction():
  tree = config.parse(["main", support.CONFIG, "--config.instruction=Make it night!"])
  assert config.resolve(tree).run_dir == f"runs/{pathlib.Path(tree.scene.path).name}-make-it-night"
