"""Scenes on disk, right and with planted faults: what an inspection of them says."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from imx2mx_jax import inspect_scene, scene_check
from imx2mx_jax.pictures import to_uint8
from imx2mx_jax.scene import choose, load_scene, read_transforms
from tests import textured
from tests.golden.support import scenes_folder


@pytest.fixture(scope="module")
def right(tmp_path_factory):
  folder = tmp_path_factory.mktemp("right")
  return folder, textured.write(folder)


@pytest.fixture
def planted(right, tmp_path):
  """The right scene, in a folder of its own for a test to spoil."""
  (tmp_path / "images").mkdir()
  for file in (right[0] / "images").iterdir():
    (tmp_path / "images" / file.name).write_bytes(file.read_bytes())
  return tmp_path, json.loads(json.dumps(right[1]))


def inspected(folder):
  transforms = read_transforms(folder)
  return scene_check.inspect(transforms, choose(transforms, ()))


def test_a_right_scene_is_not_suspicious(right):
  findings = inspected(right[0])
  assert findings.suspicions == ()
  assert all(pair.matches > 30 and pair.median_error < 0.7 for pair in findings.pairs)
  angles = [pair.angle for pair in findings.pairs if pair.views == (0, 3)]
  np.testing.assert_allclose(angles, 25.5, atol=2)
  assert all(0.5 < pair.overlap <= 1 for pair in findings.pairs)


def test_the_brief_look_sees_the_same(right, planted):
  folder, transforms = planted
  for frame in transforms["frames"]:
    frame["transform_matrix"] = (np.array(frame["transform_matrix"]) * [1, -1, -1, 1]).tolist()
  textured.save(folder, transforms)
  brief = lambda path: scene_check.briefly(read_transforms(path), (0, 1, 2, 3))
  assert brief(right[0]) == ()
  assert "OpenCV axes" in brief(folder)[0].what


def test_mirrored_poses_are_explained(planted):
  folder, transforms = planted
  for frame in transforms["frames"]:
    frame["transform_matrix"] = (np.diag([1, 1, -1, 1]) @ frame["transform_matrix"]).tolist()
  textured.save(folder, transforms)
  [found] = inspected(folder).suspicions
  assert "applied_transform is missing" in found.what


def test_one_mirrored_pose_is_named(planted):
  folder, transforms = planted
  frame = transforms["frames"][2]
  frame["transform_matrix"] = (np.array(frame["transform_matrix"]) * [-1, 1, 1, 1]).tolist()
  textured.save(folder, transforms)
  [found] = inspected(folder).suspicions
  assert found.what == "the camera of 2.png does not fit the others"
  assert "mirrored" in found.evidence


@pytest.mark.parametrize("stretch", [0, 2])
def test_a_pose_that_is_no_pose_is_one_sentence(planted, tmp_path, capsys, stretch):
  folder, transforms = planted
  frame = transforms["frames"][2]
  frame["transform_matrix"] = (np.array(frame["transform_matrix"]) * [stretch, 1, 1, 1]).tolist()
  textured.save(folder, transforms)
  assert inspect_scene.main([str(folder), f"--out={tmp_path / 'out'}"]) == 1
  error = capsys.readouterr().err
  assert "frame 2 (images/2.png): its pose is" in error and error.count("\n") == 1


def test_photographs_that_were_turned_are_found_by_their_sides(planted):
  folder, _ = planted
  textured.save(folder, planted[1])
  for file in (folder / "images").iterdir():
    Image.fromarray(np.rot90(np.asarray(Image.open(file)), 1)).save(file)
  [found] = inspected(folder).suspicions
  assert found.what == "photographs are turned by a quarter"
  assert "240 x 320" in found.evidence
  assert "90 degrees clockwise" in found.remedy


def test_a_view_from_behind_and_one_beside_the_scene_are_named(planted):
  folder, transforms = planted
  poses = [np.array(frame["transform_matrix"]) for frame in transforms["frames"]]
  turn = np.diag([-1.0, 1, -1, 1])
  behind, beside = turn @ poses[0], poses[3].copy()
  beside[:3, 3] += [30, 0, 0]
  for index, new in ((0, behind), (3, beside)):
    transforms["frames"][index]["transform_matrix"] = new.tolist()
    noise = np.random.default_rng(index).integers(0, 255, (*textured.HW, 3), np.uint8)
    Image.fromarray(noise).save(folder / f"images/{index}.png")
  textured.save(folder, transforms)
  whats = [found.what for found in inspected(folder).suspicions]
  assert whats == ["0.png sees the scene from behind", "3.png does not overlap with the others"]


@pytest.mark.parametrize(
  ("angles", "named"), [((-35, 35), "the two"), ((-35, 35, -80), "0.png and 2.png, the nearest,")]
)
def test_of_views_that_share_nothing_the_angle_and_the_overlap_are_told(tmp_path, angles, named):
  textured.write(tmp_path, angles)
  for index, file in enumerate(sorted((tmp_path / "images").iterdir())):
    noise = np.random.default_rng(index).integers(0, 255, (*textured.HW, 3), np.uint8)
    Image.fromarray(noise).save(file)
  [found] = inspected(tmp_path).suspicions
  assert found.what == "no two views share enough for their cameras to be checked"
  told = re.search(
    rf"by the cameras {named} are (\d+) degrees apart and share \d+%", found.evidence
  )
  turn = (
    textured.pose(angles[0])[:3, 2] @ textured.pose(angles[-1 if len(angles) > 2 else 1])[:3, 2]
  )
  assert int(told[1]) == round(np.degrees(np.arccos(turn)))


def test_the_command_prints_json_and_draws(right, tmp_path, capsys):
  assert inspect_scene.main([str(right[0]), "--json", f"--out={tmp_path}"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["suspicions"] == []
  assert found["distortion_px"] == 0
  assert {"views", "matches", "median_error", "angle", "overlap"} <= set(found["pairs"][0])
  assert found["pairs"][0]["views"] == ["0.png", "1.png"]
  for drawing in (found["sheet"], found["cameras"]):
    assert np.asarray(Image.open(drawing)).std() > 10


def test_the_command_speaks_to_people(planted, tmp_path, capsys):
  folder, transforms = planted
  transforms |= {"k1": 0.1, "fl_y": 390.0}
  textured.save(folder, transforms)
  assert inspect_scene.main([str(folder), f"--out={tmp_path / 'out'}", "--frames=0,1,2"]) == 0
  out = capsys.readouterr().out
  assert re.search(r"lenses move points by up to \d+\.\d px", out)
  assert "suspicious: " in out and "try: " in out
  assert "3.png" not in out


def test_a_scene_that_cannot_be_read_is_one_sentence(tmp_path, capsys):
  assert inspect_scene.main([str(tmp_path)]) == 1
  assert capsys.readouterr().err.startswith(f"error: {tmp_path}")


def test_more_views_than_an_edit_takes_are_matched_with_their_neighbours(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(scene_check, "_FEATURES_OF_MANY", 400)  # for speed
  textured.write(tmp_path, np.linspace(-24, 24, 22))
  assert inspect_scene.main([str(tmp_path), "--json", f"--out={tmp_path / 'out'}"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["suspicions"] == []
  assert len(found["pairs"]) + found["pairs_left_out"] == 22 * 21 / 2
  assert found["pairs_left_out"] > 100
  assert max(pair["angle"] for pair in found["pairs"]) < 20
  matched = {name for pair in found["pairs"] for name in pair["views"]}
  assert matched == {f"{index}.png" for index in range(22)}


def test_it_is_said_when_not_all_pairs_were_matched(right):
  findings = inspected(right[0])
  said = "6 of 10 pairs were matched: each view with the 8 that look most nearly its way"
  assert said not in inspect_scene.text(findings)
  assert said in inspect_scene.text(dataclasses.replace(findings, left_out=4))


@pytest.mark.parametrize("undistort", [True, False])
def test_the_sheet_frames_what_an_edit_gets(planted, undistort):
  folder, transforms = planted
  textured.save(folder, transforms | {"k1": 0.2, "p1": 0.01})
  sheet = inspect_scene.views_sheet(
    read_transforms(folder), [0], ["0.png"], (1, 1), undistort=undistort
  )
  tile = sheet[4:324, 4:324]  # inside the gaps
  edited = load_scene(folder, size=240, undistort=undistort).images[0]
  inside = slice(4, -4)  # the red frame
  shown = tile[40:280, 40:280][inside, inside]
  np.testing.assert_allclose(shown, to_uint8(edited)[inside, inside], atol=1)


def test_a_lens_is_told_whether_it_is_believed_or_ignored(planted, tmp_path, capsys):
  folder, transforms = planted
  textured.save(folder, transforms | {"k1": 0.1})
  shown = re.compile(r"lenses move points by up to (\S+) px(.*)")
  told = []
  for option in ([], ["--ignore-lens"]):
    assert inspect_scene.main([str(folder), f"--out={tmp_path / 'out'}", *option]) == 0
    told += shown.findall(capsys.readouterr().out)
  (believed, nothing), (ignored, why) = told
  assert believed == ignored and float(believed) > 5
  assert nothing == ""
  assert "as --ignore-lens asks; leave it out" in why


def test_a_folder_that_cannot_be_made_is_one_sentence(right, tmp_path, capsys):
  (tmp_path / "file").write_text("in the way")
  assert inspect_scene.main([str(right[0]), f"--out={tmp_path / 'file' / 'x'}"]) == 1
  printed = capsys.readouterr()
  assert printed.err.startswith(f"error: {tmp_path / 'file' / 'x'} cannot be written (")
  assert "--out=FOLDER" in printed.err and printed.err.count("\n") == 1
  assert printed.out == ""


def test_cameras_that_are_close_together_share_a_short_label():
  names = [f"frame_000{number}.jpg" for number in ("05", "44", "68", "89", "90", "91")]
  places = np.array([[0, 0], [0, 0.01], [1, 0], [0, 1], [0.02, 1], [0, 1.02]])
  assert inspect_scene.camera_labels(names, places) == [("05, 44", 0), ("68", 2), ("89 +2", 3)]


def test_a_name_that_others_begin_with_stays_whole():
  places = np.array([[0.0, 0], [1, 0]])
  assert inspect_scene.camera_labels(["a.png", "ab.png"], places) == [("a", 0), ("b", 1)]


class TestPublishedScenes:
  """What is known of three real captures."""

  def test_the_focal_lengths_of_person_small_do_not_fit(self):
    """Square pixels, fl_y like fl_x, fit its pictures far better."""
    [focal] = [
      found
      for found in inspected(scenes_folder() / "person-small").suspicions
      if "focal" in found.what
    ]
    assert focal.what == "the focal length fl_y does not fit the pictures"
    assert "about fl_y = 500 instead of 451 (all views: times 1.11)" in focal.remedy
    before, after = (
      float(px)
      for px in re.findall(r"error is (.+) px \(.* of (.+) px \(", focal.evidence)[0][::-1]
    )
    assert after < 0.5 < 2 < before

  def test_face_is_not_suspicious(self):
    assert inspected(scenes_folder() / "face").suspicions == ()

  def test_a_view_of_bear_is_from_behind_and_nothing_else(self):
    [found] = inspected(scenes_folder() / "bear").suspicions
    assert found.what == "frame_00068.jpg sees the scene from behind"
