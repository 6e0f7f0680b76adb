"""What the page has done: settings, what is told of an edit, and what is made of a run."""

import dataclasses
import json
import pathlib
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from imx2mx_jax import config, edit, poses, scene
from imx2mx_jax.app import shelf, tasks
from imx2mx_jax.app.worker import Job
from imx2mx_jax.errors import ConfigError
from tests.cli import support
from tests.evaluate.support import SCENE, finished, views

WISH = tasks.Wish(str(SCENE), (2, 0), "make it sunset", 2.0, 1.3, 7)

UNUSED = (lambda: pytest.fail("the page asks for a state"),) * 2


@pytest.fixture
def tree():
  return config.parse(["app", support.CONFIG])


def wished(tree, **changes):
  wish = dataclasses.replace(WISH, **changes)
  return tasks.settings(tree, wish, pathlib.Path("runs"), "cpu")


def test_what_was_chosen_becomes_a_run(tree):
  run = wished(tree)
  assert run.scene.frames == (2, 0) and run.scene.reference == 2
  assert (run.instruction, run.teacher.text_guidance, run.seed) == ("make it sunset", 2.0, 7)
  assert run.student.weights == tree.student.weights
  assert tree.scene.frames == "0,2,5,7", "the page's settings are nobody's to change"


def test_the_same_wish_is_the_same_folder_and_another_wish_another(tree):
  folders = [
    wished(tree, **change).run_dir
    for change in ({}, {}, {"seed": 8}, {"views": (0, 2)}, {"instruction": "make it day"})
  ]
  assert folders[0] == folders[1] and len(set(folders)) == 4
  assert folders[0].startswith("runs/scene_05-make-it-sunset-")


def test_an_instruction_that_looks_like_options_is_an_instruction(tree):
  text = '"; --config.run_dir=/etc $(reboot) ../../x'
  run = wished(tree, instruction=text)
  assert run.instruction == text
  assert pathlib.Path(run.run_dir).parent == pathlib.Path("runs")


def test_an_empty_instruction_is_refused(tree):
  with pytest.raises(ConfigError, match="instruction"):
    wished(tree, instruction=" ")


def test_the_command_that_is_told_goes_on_with_the_same_run(tree):
  run = wished(tree)
  _, _, module, *argv = tasks.command([support.CONFIG], run)
  assert module == "imx2mx_jax.main"
  assert config.resolve(config.parse(["main", *argv]), "cpu") == run


def test_an_edit_s_events_are_told(tree):
  job = Job("a", lambda job: None)
  tell, image = tasks.Telling(job), np.zeros((4, 4, 3), np.uint8)
  tell(edit.Prepared(image, {}, 12, 0))
  assert job.shown.line == "the reference view is edited; compiling"
  assert job.shown.share is None and len(job.shown.pictures) == 1
  progress = edit.Progress(4, *UNUSED, {}, 2.0, 12, 0)
  tell(progress)
  assert (job.shown.line, job.shown.share) == ("iteration 4 of 12, 0:04 left", 4 / 12)
  before = job.shown.pictures
  tell(edit.Snapshot(4, 599, np.stack([image, image])))
  assert job.shown.pictures is not before and len(job.shown.pictures) == 2


def test_an_edit_that_goes_on_counts_from_where_it_was(tree):
  job = Job("a", lambda job: None)
  tell = tasks.Telling(job)
  tell(edit.Prepared(np.zeros((4, 4, 3), np.uint8), {}, 12, 8))
  assert job.shown.line == "going on after 8 of 12 iterations; compiling"
  assert job.shown.share == 8 / 12
  tell(edit.Progress(10, *UNUSED, {}, 2.0, 12, 0))
  assert job.shown.line == "iteration 10 of 12, 0:02 left"


def test_a_download_has_all_but_what_only_serves_to_go_on(tmp_path, monkeypatch):
  folder = finished(tmp_path / "run", views(SCENE / "edited" / "make-it-sunset"))
  for name in ("state/12/a", "render/arc/state/1/a", "render/arc/video.mp4", "student/a", ".claim"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"0123456789")
  names = set(zipfile.ZipFile(tasks.packed(folder, tmp_path / "out")).namelist())
  assert {"run/render/arc/video.mp4", "run/config.json", "run/student/a"} <= names
  assert not any("state" in name or "claim" in name for name in names)
  monkeypatch.setattr(tasks, "_MOST_PACKED", 5)
  names = zipfile.ZipFile(tasks.packed(folder, tmp_path / "out")).namelist()
  assert "run/student/a" not in names and "run/edited/000.png" in names


def test_micro_models_get_no_guidance_in_a_video(tree):
  run = wished(tree)
  assert tasks.video_settings(run, "arc", 8, 2).guidance == 1
  student = dataclasses.replace(run.student, weights="weights/student")
  real = tasks.video_settings(dataclasses.replace(run, student=student), "arc", 8, 2)
  assert real.guidance == 3


def test_many_frames_are_shown_evenly(tmp_path):
  shutil.copytree(SCENE, tmp_path / "scene")
  content = json.loads((SCENE / "transforms.json").read_text())
  content["frames"] *= 25
  (tmp_path / "scene" / "transforms.json").write_text(json.dumps(content))
  frames = tasks.frames_of(scene.read_transforms(tmp_path / "scene"), 40)
  assert len(frames) == 40 and frames[0] == 0 and frames[-1] == 199
  assert set(np.diff(frames)) == {5, 6}
  assert tasks.frames_of(scene.read_transforms(SCENE), 40) == list(range(8))


def test_chosen_thumbnails_differ_from_the_others():
  pictures = tasks.thumbnails(scene.read_transforms(SCENE), [0, 0], shelf.SIDE)
  chosen, other = shelf.marked(pictures, [0, None])
  assert chosen.size == other.size == (shelf.SIDE, shelf.SIDE)
  assert chosen.getpixel((3, 200)) == (47, 93, 124)
  assert np.asarray(other).std() < np.asarray(chosen).std()


def test_a_wide_photograph_s_thumbnail_is_whole():
  (square,) = shelf.marked([np.full((50, 100, 3), 255, np.uint8)], [None])
  lit = np.asarray(square.convert("L")) > 140
  assert lit.any(axis=0).all() and abs(lit.any(axis=1).mean() - 0.5) < 0.02


def test_cameras_that_are_there_are_not_found_again(tmp_path, monkeypatch):
  monkeypatch.setattr(poses, "find", lambda *_: pytest.fail("found again"))
  assert tasks.cameras(tmp_path / "photographs", tmp_path, Job("a", print)) == tmp_path


def test_before_and_after_are_equally_large(tree, tmp_path):
  run = dataclasses.replace(wished(tree), run_dir=str(tmp_path / "run"))
  (tmp_path / "run" / "edited").mkdir(parents=True)
  for name in ("002", "000"):
    Image.new("RGB", (40, 40)).save(tmp_path / "run" / "edited" / f"{name}.png")
  result = tasks.result(run, tmp_path / "downloads")
  assert list(result.views) == ["002.png", "000.png"]
  for before, after in result.views.values():
    assert before.shape == after.shape == (40, 40, 3)


def test_a_click_adds_a_view_or_takes_it_out_and_the_order_is_the_clicks():
  pictures = tuple(tasks.thumbnails(scene.read_transforms(SCENE), [0], 8)) * 3
  chosen = shelf.Shelf(pathlib.Path("x"), (0, 5, 9), pictures, ())
  assert "2 to 20 views" in chosen.told()
  for place in (2, 0, 1, 0):
    chosen = chosen.toggled(place)
  assert chosen.chosen == (9, 5) and chosen.told().startswith("2 views; number 1 is")
  assert len(chosen.marked()) == 3


def test_no_more_views_are_chosen_than_can_be_edited():
  chosen = shelf.Shelf(pathlib.Path("x"), tuple(range(30)), (), ())
  for place in range(30):
    chosen = chosen.toggled(place)
  assert len(chosen.chosen) == 20
