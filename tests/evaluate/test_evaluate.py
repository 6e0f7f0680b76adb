"""The command on folders of finished runs whose worth is known."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from imx2mx_jax import sheets
from tests.evaluate.support import CLIP, NAMES, SCENE, SIZE, evaluated, finished, metrics, views

TRUTH = views(SCENE / "edited" / "make-it-sunset")


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
  """The folder of a perfect run, measured."""
  folder = finished(tmp_path_factory.mktemp("runs") / "truth", TRUTH)
  assert evaluated(folder, CLIP) == 0
  return folder


def test_a_true_edit_is_followed_and_consistent(truth):
  found = metrics(truth)
  assert found["clip"]["dir"] > 0.5
  assert found["clip"]["model"] == "clip trained on micro"
  assert found["warp"]["floor"] < found["warp"]["mean"] < 0.02


def test_the_captions_come_from_the_scene(truth):
  clip = metrics(truth)["clip"]
  assert clip["source_caption"] == "a white cylinder on clay at night"
  assert clip["edited_caption"] == "a white cylinder on clay at sunset"


def test_the_map_of_the_warp_error_shows_the_views(truth):
  file = truth / metrics(truth)["warp"]["map"]
  with Image.open(file) as picture:
    assert picture.size == (len(NAMES) * SIZE, SIZE)


def test_what_is_missing_says_why(truth):
  """Pictures of 64 pixels have too few features."""
  found = metrics(truth)
  assert "epipolar" not in found
  assert "too few points" in found["absent"]["epipolar"]


def test_the_controls_are_told(truth):
  judged = metrics(truth)["controls"]
  assert set(judged) == {"clip.cons", "clip.sim", "clip.dir", "warp"}
  assert judged["warp"]["photographs"] < judged["warp"]["identical views"] < judged["warp"]["noise"]
  assert judged["clip.cons"]["photographs"] == 1


def test_inconsistent_views_are_worse_than_the_truth(truth, tmp_path):
  """A view of another sky is noticed by warping, copies of one picture are too."""
  mixed = TRUTH.copy()
  mixed[0] = views(SCENE / "images")[0]
  scores = {}
  for name, edited in {"mixed": mixed, "copies": TRUTH[[0, 0, 0, 0]]}.items():
    folder = finished(tmp_path / name, edited)
    assert evaluated(folder, CLIP) == 0
    scores[name] = metrics(folder)
    assert scores[name]["warp"]["mean"] > 2 * metrics(truth)["warp"]["mean"]
  assert scores["mixed"]["clip"]["cons"] < metrics(truth)["clip"]["cons"]


def test_given_captions_are_used_and_remembered(tmp_path, capsys):
  folder = finished(tmp_path / "run", TRUTH, instruction="make it mine")
  assert evaluated(folder, CLIP) == 0
  assert "--source_caption=" in metrics(folder)["absent"]["clip"]
  assert "no clip: what the pictures show" in capsys.readouterr().out
  for _ in range(2):
    assert evaluated(folder, CLIP, "--edited_caption=a cube on grass at sunset") == 0
    assert metrics(folder)["clip"]["edited_caption"] == "a cube on grass at sunset"
  assert evaluated(folder, CLIP) == 0
  assert metrics(folder)["clip"]["edited_caption"] == "a cube on grass at sunset"


def test_a_caption_that_clip_cannot_read_costs_no_earlier_measurement(truth, capsys):
  before = metrics(truth)
  assert evaluated(truth, CLIP, f"--edited_caption={'a red cube and ' * 20}") == 1
  assert capsys.readouterr().err.count("\n") == 1
  assert metrics(truth) == before


def test_a_mask_says_what_the_background_is(tmp_path):
  edited = views(SCENE / "images")
  edited[:, : SIZE // 2] = 255
  (tmp_path / "masks").mkdir()
  mask = np.zeros((128, 128), np.uint8)
  mask[:64] = 255
  for name in NAMES:
    Image.fromarray(mask).save(tmp_path / "masks" / name)
  masks = str(tmp_path / "masks")
  asked, own = finished(tmp_path / "asked", edited), finished(tmp_path / "own", edited, mask=masks)
  assert evaluated(asked, CLIP, f"--mask={masks}") == 0
  assert evaluated(own, CLIP) == 0
  found = metrics(asked)["background"]
  assert found == metrics(own)["background"]
  assert found["share"] == pytest.approx(0.5)
  assert found["psnr"] > 45
  judged = metrics(asked)["controls"]["background"]
  assert judged["photographs"] == 99 and judged["noise"] < 12
  assert found["ssim"] > 0.99


def test_a_missing_mask_is_named(tmp_path):
  folder = finished(tmp_path / "run", TRUTH)
  assert evaluated(folder, CLIP, f"--mask={tmp_path}") == 0
  assert "000.png: there is no mask that can be read" in metrics(folder)["absent"]["background"]


def test_weights_that_are_not_there_spare_the_other_measures(tmp_path):
  folder = finished(tmp_path / "run", TRUTH)
  assert evaluated(folder, f"--clip={tmp_path / 'none'}") == 0
  found = metrics(folder)
  assert "convert_weights" in found["absent"]["clip"]
  assert "warp" in found


@pytest.mark.parametrize("missing", ["finished.json", "config.json", "edited/002.png"])
def test_a_folder_without_a_finished_run_is_refused_in_one_sentence(tmp_path, capsys, missing):
  folder = finished(tmp_path / "run", TRUTH)
  (folder / missing).unlink()
  assert evaluated(folder) == 1
  error = capsys.readouterr().err
  assert error.startswith(f"error: {folder} ") and error.count("\n") == 1
  assert not (folder / "metrics.json").exists()


def test_a_table_over_runs_is_written_three_times(truth, tmp_path, capsys):
  other = finished(tmp_path / "copies", TRUTH[[0, 0, 0, 0]])
  assert evaluated(truth, other, CLIP, f"--out={tmp_path / 'tables' / 'all'}") == 0
  assert "mean of 2" in capsys.readouterr().out
  markdown = (tmp_path / "tables" / "all.md").read_text().splitlines()
  assert [line.split(" | ")[0] for line in markdown] == [
    "| run",
    "| ---",
    "| truth",
    "| copies",
    "| mean of 2",
    "| 95 % interval",
  ]
  rows = list(csv.DictReader((tmp_path / "tables" / "all.csv").read_text().splitlines()))
  values = [metrics(folder)["warp"]["mean"] for folder in (truth, other)]
  assert [float(row["warp.mean"]) for row in rows[:2]] == values
  summed = json.loads((tmp_path / "tables" / "all.json").read_text())["summary"]["warp.mean"]
  assert summed["mean"] == pytest.approx(np.mean(values))
  assert summed["low"] is None and summed["high"] is None  # two runs are too few to tell
  assert [row["run"] for row in rows[2:]] == ["mean", "low", "high", "runs"]
  assert float(rows[2]["warp.mean"]) == pytest.approx(np.mean(values))
  assert float(rows[2]["warp.floor"]) == pytest.approx(metrics(truth)["warp"]["floor"])
  assert rows[5]["warp.mean"] == "2"


def test_photographs_that_are_not_those_that_were_edited_are_refused(tmp_path, capsys):
  folder = finished(tmp_path / "run", TRUTH)
  sources = views(SCENE / "images")
  Image.fromarray(sheets.grid(sources, TRUTH)).save(folder / "grid.png")
  assert evaluated(folder) == 0
  sources[2] = 255 - sources[2]
  Image.fromarray(sheets.grid(sources, TRUTH)).save(folder / "grid.png")
  capsys.readouterr()
  assert evaluated(folder) == 1
  error = capsys.readouterr().err
  assert f"{NAMES[2]} is not the picture any more" in error and error.count("\n") == 1


def test_a_damaged_measurement_is_replaced(tmp_path):
  folder = finished(tmp_path / "run", TRUTH)
  (folder / "metrics.json").write_text("{")
  assert evaluated(folder, CLIP) == 0
  assert "warp" in metrics(folder)


def test_pairs_for_met3r_have_its_layout(truth, tmp_path, capsys):
  assert evaluated(truth, CLIP, f"--export-met3r={tmp_path / 'met3r'}") == 0
  assert f"python {tmp_path / 'met3r' / 'score.py'}" in capsys.readouterr().out
  with np.load(tmp_path / "met3r" / "pairs.npz") as file:
    pairs = dict(file)
  told = json.loads((tmp_path / "met3r" / "pairs.json").read_text())
  assert told[1] == {"run": "truth", "views": ["000.png", "005.png"]}
  for name in ("edited", "photographs"):
    assert pairs[name].shape == (6, 2, 3, 256, 256)
  edited = pairs["edited"]
  np.testing.assert_array_equal(edited[0, 0], edited[1, 0])
  corner = np.moveaxis(edited[1, 1], 0, -1)[:4, :4].mean(axis=(0, 1))
  np.testing.assert_allclose(corner, TRUTH[2, 0, 0] / 127.5 - 1, atol=0.1)
  compile((tmp_path / "met3r" / "score.py").read_text(), "score.py", "exec")


def test_missing_captions_are_asked_for_where_somebody_can_answer(tmp_path, monkeypatch):
  folder = finished(tmp_path / "run", TRUTH, instruction="make it mine")
  answers = iter(["a cube on clay at sunset"])
  monkeypatch.setattr("sys.stdin.isatty", lambda: True)
  monkeypatch.setattr("builtins.input", lambda question: next(answers))
  assert evaluated(folder, CLIP) == 0
  clip = metrics(folder)["clip"]
  assert clip["source_caption"] == "a white cylinder on clay at night"  # the scene's own
  assert clip["edited_caption"] == "a cube on clay at sunset"


@pytest.mark.parametrize("option", ["--out", "--export-met3r"])
def test_a_place_that_cannot_be_written_is_told_in_one_sentence(truth, tmp_path, capsys, option):
  (tmp_path / "file").touch()
  assert evaluated(truth, CLIP, f"{option}={tmp_path / 'file' / 'table'}") == 1
  error = capsys.readouterr().err
  assert error.startswith(f"error: {tmp_path / 'file'}") and error.count("\n") == 1


def test_a_run_folder_that_cannot_be_written_is_told_in_one_sentence(tmp_path, capsys):
  folder = finished(tmp_path / "run", TRUTH)
  (folder / "warp.png").mkdir()
  assert evaluated(folder, CLIP) == 1
  error = capsys.readouterr().err
  assert error.startswith(f"error: {folder / 'warp.png'} cannot be written (Is a directory)")
