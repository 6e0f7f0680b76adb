"""Paths rendered as a user renders them, on the bundled micro models, as small as can be."""

import dataclasses
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest
from etils import epath
from PIL import Image

from imx2mx_jax import paths, scene, terminal
from imx2mx_jax.render import inputs, session, settings, splats, views
from imx2mx_jax.render.__main__ import main
from tests.cli import support

SCENE = support.MICRO / "scenes" / "scene_05"
MODELS = f"--models={support.MICRO / 'bundled'}"
SMALL = [MODELS, "--size=32", "--views=3,6", "--frames=7", "--steps=2", "--at_once=6", "--fps=8"]


def command(*options, source=SCENE) -> list[str]:
  return ["render", str(source), *SMALL, *map(str, options)]


def pixels(folder) -> np.ndarray:
  return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("frames/*.png"))])


@dataclasses.dataclass(frozen=True)
class Rendering:
  folder: pathlib.Path
  lines: list[str]


@pytest.fixture(scope="module")
def arc(tmp_path_factory) -> Rendering:
  """Two passes of an arc: two views and four anchors, then two chunks."""
  folder = tmp_path_factory.mktemp("renders") / "arc"
  with pytest.MonkeyPatch.context() as patch:
    lines = []
    patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
    assert main(command("--path=arc", f"--out={folder}")) == 0
  return Rendering(folder, lines)


def test_a_scene_becomes_frames_cameras_and_videos(arc):
  images = pixels(arc.folder)
  assert images.shape == (7, 32, 32, 3) and images.std() > 5
  assert "4 anchors, then 2 chunks" in arc.lines[1]
  assert arc.lines[-2].startswith("7 of 7 frames") and arc.lines[-2].endswith("0:00 left")
  assert arc.lines[-1] == str(arc.folder)
  assert "licence" in (arc.folder / "NOTICE").read_text()


@pytest.mark.slow
def test_eight_devices_render_what_one_renders(arc, cache, tmp_path):
  options = command("--path=arc", f"--out={tmp_path / 'arc'}")[1:]
  flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
  subprocess.run(
    [sys.executable, "-W", "error", "-m", "imx2mx_jax.render", *options],
    cwd=support.REPOSITORY,
    env=os.environ | {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": str(cache)},
    check=True,
  )
  apart = np.abs(pixels(tmp_path / "arc").astype(int) - pixels(arc.folder))
  assert apart.max() <= 1


def test_browsers_can_play_the_video(arc):
  shown = subprocess.run(
    [imageio_ffmpeg.get_ffmpeg_exe(), "-i", arc.folder / "video.mp4"],
    capture_output=True,
    text=True,
  ).stderr
  assert "h264" in shown and "yuv420p" in shown and "256x256" in shown and "8 fps" in shown
  assert imageio_ffmpeg.count_frames_and_secs(str(arc.folder / "video.mp4"))[0] == 7
  with Image.open(arc.folder / "video.gif") as gif:
    assert gif.n_frames == 7 and gif.size == (256, 256)


def test_the_scene_reader_reads_the_folder_with_the_path_s_cameras(arc):
  read = scene.load_scene(arc.folder, size=32)
  given = inputs.read(settings.parse(command("--path=arc")))
  c2w, K = paths.arc(paths.start(given.c2w, given.K.astype(float)), 7)
  np.testing.assert_allclose(read.c2w, c2w, atol=1e-9)
  np.testing.assert_allclose(read.K, K, atol=1e-6)
  np.testing.assert_array_equal(np.rint((read.images + 1) * 127.5), pixels(arc.folder))


def test_nerfstudio_finds_what_it_asks_for(arc):
  told = json.loads((arc.folder / "transforms.json").read_text())
  assert told["camera_model"] == "OPENCV"
  per_frame = {"file_path", "fl_x", "fl_y", "cx", "cy", "transform_matrix"}
  for frame in told["frames"]:
    assert frame.keys() >= per_frame and (arc.folder / frame["file_path"]).exists()
    right, up, back = np.array(frame["transform_matrix"])[:3, :3].T
    assert abs(right[2]) < 0.01 < up[2] and back[2] > 0  # level, upright, looking down


def test_a_stopped_rendering_goes_on_to_the_same_frames(arc, tmp_path, capsys):
  wanted = settings.parse(command("--path=arc", f"--out={tmp_path / 'stopped'}"))
  stop = terminal.Stop()
  stop.heard = 2
  seen = []
  folder = session.render_path(wanted, stop, seen.append)
  assert stop.exit_code == 130 and len(pixels(folder)) == 4  # the anchors
  assert [(progress.done, progress.taken, progress.left) for progress in seen] == [
    (0, 2, 4),
    (4, 2, 4),
  ]
  assert not (folder / "video.mp4").exists()
  assert main(command("--path=arc", f"--out={folder}")) == 0
  assert "4 done" in capsys.readouterr().out
  np.testing.assert_array_equal(pixels(folder), pixels(arc.folder))


def test_a_lost_frame_is_made_again_and_the_same(arc, tmp_path):
  folder = tmp_path / "copy"
  shutil.copytree(arc.folder, folder)
  (folder / "frames" / "00001.png").unlink()
  assert main(command("--path=arc", f"--out={folder}")) == 0
  np.testing.assert_array_equal(pixels(folder), pixels(arc.folder))


def test_a_frame_is_the_same_whenever_its_progress_is_told(arc, tmp_path, monkeypatch):
  folder = shutil.copytree(arc.folder, tmp_path / "copy")
  (folder / "frames" / "00001.png").unlink()
  monkeypatch.setattr(views, "_TOGETHER", 1)
  seen = []
  wanted = settings.parse(command("--path=arc", f"--out={folder}"))
  session.render_path(wanted, terminal.Stop(), seen.append)
  assert [progress.share for progress in seen] == [0.5, 1, 1]
  assert np.abs(pixels(folder).astype(int) - pixels(arc.folder)).max() <= 1


def test_another_rendering_is_not_mixed_in(arc, capsys):
  assert main(command("--path=arc", "--seed=7", f"--out={arc.folder}")) == 1
  error = capsys.readouterr().err
  assert "--seed was 42" in error and "--out=" in error and error.count("\n") == 1


def test_the_cameras_of_a_rendering_are_a_path_for_another(arc):
  wanted = settings.parse(command(f"--path={arc.folder / 'transforms.json'}"))
  c2w, K = inputs.cameras_of(wanted, inputs.read(wanted))
  read = scene.load_scene(arc.folder, size=32)
  np.testing.assert_allclose(c2w, read.c2w)
  np.testing.assert_allclose(K, read.K, atol=1e-6)


def test_the_path_along_the_inputs_goes_from_the_first_to_the_last():
  wanted = settings.parse(command("--path=inputs"))
  given = inputs.read(wanted)
  c2w, _ = inputs.cameras_of(wanted, given)
  np.testing.assert_allclose(c2w[[0, -1]], given.c2w, atol=1e-9)


def test_a_run_is_rendered_from_its_edited_views_by_either_student(finished, tmp_path):
  source, out = finished.folder, tmp_path / "run"
  options = ["--path=arc", "--frames=4", "--steps=2", "--at_once=6", "--extent=0.3"]
  assert main(["render", str(source), *options, f"--out={out}"]) == 0
  given = inputs.read(settings.parse(["render", str(source)]))
  assert given.weights.student == str(support.MICRO / "bundled" / "student")
  assert given.out.startswith(str(source))
  edited = [np.asarray(Image.open(file)) for file in sorted(source.glob("edited/*.png"))]
  for image in np.rint((given.images + 1) * 127.5):
    assert any((image == one).all() for one in edited)
  for more, first in (["--views=0,2"], 0), (["--path=inputs"], 2), (["--views=0"], 0):
    ordered = inputs.read(settings.parse(["render", str(source), *more]))
    image = np.rint((ordered.images[0] + 1) * 127.5)
    assert (image == np.asarray(Image.open(source / "edited" / f"00{first}.png"))).all()
  own = inputs.read(settings.parse(["render", str(source), "--student=personalised"]))
  assert own.weights.student == str(source / "student")
  other = tmp_path / "own"
  assert main(["render", str(source), *options, "--student=personalised", f"--out={other}"]) == 0
  assert (pixels(out) != pixels(other)).any()


def test_a_run_needs_its_photographs_no_more(finished, tmp_path):
  folder = shutil.copytree(finished.folder, tmp_path / "moved")
  told = json.loads((folder / "config.json").read_text())
  told["settings"] |= {"scene.path": "gone"}
  (folder / "config.json").write_text(json.dumps(told))
  moved, before = (
    inputs.read(settings.parse(["render", str(path)])) for path in (folder, finished.folder)
  )
  for name in ("images", "c2w", "K"):
    np.testing.assert_array_equal(getattr(moved, name), getattr(before, name))
  photographs = scene.load_scene(SCENE, told["frames"], size=64)
  ordered = inputs.read(settings.parse(["render", str(folder), "--path=inputs"]))
  np.testing.assert_allclose(ordered.c2w, photographs.c2w, atol=1e-12)
  np.testing.assert_allclose(ordered.K, photographs.K, atol=1e-6)
  named = inputs.read(settings.parse(["render", str(folder), f"--views={told['file_paths'][1]}"]))
  np.testing.assert_allclose(named.c2w[0], photographs.c2w[1], atol=1e-12)


def test_one_photograph_is_rendered_wide(tmp_path):
  photo = SCENE / "images" / "003.png"
  options = [MODELS, "--size=48x32", "--frames=2", "--steps=1", "--path=move-left", "--fov=45"]
  assert main(["render", str(photo), *options, f"--out={tmp_path / 'photo'}"]) == 0
  assert pixels(tmp_path / "photo").shape == (2, 32, 48, 3)
  told = json.loads((tmp_path / "photo" / "transforms.json").read_text())
  assert (told["w"], told["h"]) == (48, 32)
  assert told["frames"][0]["fl_x"] == pytest.approx(24 / np.tan(np.radians(22.5)))


def test_a_path_that_leaves_what_the_inputs_saw_is_told():
  wanted = settings.parse(command("--frames=8", "--path=orbit"))
  given = inputs.read(wanted)
  told = session.unseen(given, inputs.cameras_of(wanted, given))
  assert "frames show mostly what no input saw" in told
  wanted = settings.parse(command("--path=arc"))
  assert not session.unseen(given, inputs.cameras_of(wanted, given))


@pytest.mark.parametrize(
  "options, words",
  [
    (["--path=orbitt"], "did you mean orbit?"),
    (["--frame=3"], "did you mean --frames?"),
    (["--frames=1"], "--frames=1: it must be from 2 to 10000"),
    (["--size=42"], "both must be multiples of"),
    (["--size=big"], 'as in "1024x576"'),
    (["--views=9"], "there is no frame 9"),
    (["--views=0", "--path=inputs"], "needs two views"),
    (["--models=nowhere"], "nowhere/student"),
    (["--out=tests"], "tests holds other things"),
    (["--out=setup.py"], "setup.py is a file, no folder"),
    (["--student=personalised"], "is no finished run"),
    (["--fov=40"], "has cameras of its own; leave it out"),
    (["--path={cameras}"], 'has w = "64px"; put a finite number there'),
  ],
)
def test_mistakes_are_told_in_one_sentence(options, words, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(support.REPOSITORY)
  told = json.loads((SCENE / "transforms.json").read_text())
  (tmp_path / "cameras.json").write_text(json.dumps(told | {"w": "64px", "h": 64}))
  options = [option.format(cameras=tmp_path / "cameras.json") for option in options]
  assert main(command(*options)) == 1
  error = capsys.readouterr().err
  assert error.startswith("error: ") and error.count("\n") == 1
  assert words in error


def test_views_of_one_photograph_are_refused(capsys):
  photo = SCENE / "images" / "003.png"
  assert main(["render", str(photo), MODELS, "--views=3"]) == 1
  assert "is one photograph; leave it out" in capsys.readouterr().err
  assert main(["render", "phto.jpg", MODELS, "--fov=40"]) == 1
  assert "phto.jpg: there is no such folder" in capsys.readouterr().err


def test_a_scene_of_many_views_is_rendered_from_all_of_them(tmp_path):
  told = json.loads((SCENE / "transforms.json").read_text())
  shutil.copytree(SCENE / "images", tmp_path / "images")
  (tmp_path / "transforms.json").write_text(json.dumps(told | {"frames": told["frames"] * 3}))
  given = inputs.read(settings.parse(["render", str(tmp_path), "--size=32"]))
  assert len(given.images) == 24


def test_splats_are_fitted_where_nerfstudio_is_and_explained_where_not(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv("PATH", str(tmp_path))
  folder = epath.Path(tmp_path)
  splats.fit(folder)
  fit, export = (" ".join(words) for words in splats.commands(folder))
  assert fit in capsys.readouterr().out and export.startswith("ns-export gaussian-splat")
  for name in ("ns-train", "ns-export", "nvidia-smi"):
    (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $@" >> {tmp_path}/told\n')
    (tmp_path / name).chmod(stat.S_IRWXU)
  splats.fit(folder)
  assert (tmp_path / "told").read_text().splitlines() == [fit, export]
  (tmp_path / "ns-train").write_text("#!/bin/sh\nexit 3\n")
  with pytest.raises(splats.SplatError, match="ended with 3"):
    splats.fit(folder)
