"""Other teachers than InstructPix2Pix: what a ControlNet follows, and what fits together."""

import dataclasses
import json
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from imx2mx_jax import conditions, depth, pictures, scene, teachers, weights
from imx2mx_jax.errors import SceneError
from imx2mx_jax.main import main
from imx2mx_jax.models.controlnet import ControlNet
from imx2mx_jax.models.network import Network, abstract, initialise
from imx2mx_jax.models.unet import UNet
from imx2mx_jax.train import export, settings
from tests.cli import support

SIZE = support.SMALL["teacher.size"]
BUNDLED = support.MICRO / "bundled" / "teacher"
ORIGIN = export.Origin("made by a test", "none")


def without_source(unet):
  """An editor's weights, cut down to those of a text-to-image model."""
  return unet | {"conv_in/kernel": unet["conv_in/kernel"][:, :, :4]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """A text-to-image model and a ControlNet on it, each in its converted folder."""
  root = tmp_path_factory.mktemp("weights")
  info, nets = weights.read_info(BUNDLED, "teacher").networks, weights.load(BUNDLED, "teacher")
  shapes = {name: stored.shape for name, stored in info.items()}
  shapes["unet"] = dataclasses.replace(shapes["unet"], in_channels=4)
  params = {name: net.params for name, net in nets.items()}
  params["unet"] = without_source(params["unet"])
  export.write(root / "teacher", "teacher", shapes, params, ORIGIN, BUNDLED / weights.TOKENIZER)
  shape = settings.MODELS["controlnet"].shape
  shape = dataclasses.replace(shape, in_channels=4, hint_channels=(8, 8, 8))
  control = {"controlnet": initialise(ControlNet, shape, 0).params}
  export.write(root / "controlnet", "controlnet", {"controlnet": shape}, control, ORIGIN)
  wide = dataclasses.replace(shape, channels=(128, 128, 128), down_attention=(True, True, True))
  wide = dataclasses.replace(wide, heads=(4, 4, 4))
  control = {"controlnet": initialise(ControlNet, wide, 0).params}
  export.write(root / "wide", "controlnet", {"controlnet": wide}, control, ORIGIN)
  return root


def controlnet(folders, **changes):
  return {
    "teacher__kind": "controlnet",
    "teacher__weights": folders / "teacher",
    "teacher__controlnet": folders / "controlnet",
    "method": "teacher_only",
    "instruction": "a red cube at night",
    **changes,
  }


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
  """The scene's own depth as a user would save it, near being bright."""
  folder = tmp_path_factory.mktemp("maps")
  views = scene.load_scene(support.SMALL["scene.path"], (2, 0), size=128)
  for name, far in zip(views.names, scene.load_depth(views, 128), strict=True):
    map_ = np.asarray(conditions.from_depth(far, far.shape))
    Image.fromarray(np.rint(map_ * 255).astype(np.uint8)).save(folder / name)
  return folder


def edited(run_dir):
  return np.stack([np.asarray(Image.open(run_dir / "edited" / f)) for f in ("002.png", "000.png")])


@pytest.fixture(scope="module")
def runs(folders, maps, tmp_path_factory):
  """{condition: the views that the command ends with}."""
  out, found = tmp_path_factory.mktemp("runs"), {}
  for name, condition in (("depth", "depth"), ("canny", "canny"), ("maps", maps)):
    changes = controlnet(folders, teacher__condition=condition)
    assert main(["main", *support.arguments(out / name, **changes)]) == 0
    found[name] = edited(out / name)
  notice = (out / "depth" / "NOTICE").read_text()
  assert "controlnet: made by a test" in notice and "student" not in notice
  return found


def test_a_controlnet_edits_a_scene_by_its_depth_and_by_its_edges(runs):
  difference = np.abs(runs["depth"].astype(float) - runs["canny"])
  assert difference.mean() > 0.1


def test_maps_of_ones_own_do_what_the_scenes_depth_does(runs):
  difference = np.abs(runs["depth"].astype(float) - runs["maps"])
  other = np.abs(runs["depth"].astype(float) - runs["canny"])
  assert difference.mean() < 0.25 * other.mean()


def test_maps_of_16_bits_keep_their_depth(tmp_path):
  ramp = np.linspace(1000, 60000, 64 * 64).reshape(64, 64)
  Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "a.png")
  found = conditions._read(epath.Path(tmp_path), "a.jpg", (64, 64))
  np.testing.assert_allclose(found[..., 0], ramp / 65535, atol=0.02)


def test_near_is_bright_and_what_is_unknown_is_dark():
  depth = np.array([[1, 2], [4, 0]], np.float32)
  found = np.asarray(conditions.from_depth(depth, (2, 2)))
  np.testing.assert_allclose(found[..., 0], [[1, 0.5], [0.25, 0]], atol=1 / 255)
  assert (found == found[..., :1]).all()


def test_edges_are_cannys_of_the_picture():
  images = np.full((1, 32, 32, 3), -1, np.float32)
  images[:, 8:24, 8:24] = 1
  found = conditions.canny(images)
  wanted = cv2.Canny(pictures.to_uint8(images)[0], 100, 200) / 255
  np.testing.assert_array_equal(found, np.repeat(wanted[None, ..., None], 3, axis=3))
  assert set(np.unique(found)) == {0, 1}


def test_a_view_by_itself_has_the_condition_that_it_has_among_others(maps):
  views = scene.load_scene(support.SMALL["scene.path"], (2, 0), size=32)
  for condition in ("depth", "canny", str(maps)):
    both = conditions.of_views(views, [0, 1], views.images, condition)
    alone = conditions.of_views(views, [1], views.images[1:], condition)
    np.testing.assert_array_equal(alone, both[1:])


def test_a_view_without_a_map_is_named(maps, tmp_path):
  shutil.copy(maps / "002.png", tmp_path)
  views = scene.load_scene(support.SMALL["scene.path"], (2, 0), size=32)
  with pytest.raises(SceneError, match=r"000\.png: there is no condition"):
    conditions.of_views(views, [0, 1], views.images, str(tmp_path))


def test_maps_that_have_changed_are_not_those_of_before(maps, tmp_path):
  views = scene.load_scene(support.SMALL["scene.path"], (2, 0), size=32)
  changed = shutil.copytree(maps, tmp_path / "maps")
  before = conditions.content(views, str(changed))
  assert before == conditions.content(views, str(maps))
  Image.new("L", (8, 8), 9).save(changed / views.names[1])
  assert before != conditions.content(views, str(changed))
  assert conditions.content(views, "depth") and not conditions.content(views, "canny")


def test_a_scene_without_depth_is_told_what_to_give(tmp_path):
  shutil.copytree(support.SMALL["scene.path"], tmp_path / "scene")
  file = tmp_path / "scene" / "transforms.json"
  told = json.loads(file.read_text())
  for frame in told["frames"]:
    del frame["depth_file_path"]
  file.write_text(json.dumps(told))
  views = scene.load_scene(tmp_path / "scene", (2, 0), size=32)
  with pytest.raises(SceneError, match=r"--config\.teacher\.condition=FOLDER"):
    conditions.of_views(views, [0, 1], views.images, "depth")


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    ({"teacher__weights": BUNDLED}, f"its in_channels are 4 and those of the UNet in {BUNDLED} 8"),
    ({"teacher__kind": "instruct_pix2pix"}, "reads 4 channels and an InstructPix2Pix reads 8"),
    ({"teacher__kind": "nobody.py"}, "nobody.py: it is neither instruct_pix2pix nor controlnet"),
    ({"preview": True}, "--config.method=teacher_only shows what that one does"),
  ],
)
def test_what_does_not_fit_is_refused(folders, tmp_path, capsys, changes, told):
  error = support.refused(capsys, tmp_path / "run", **controlnet(folders, **changes))
  assert told in error


def test_a_controlnet_of_another_unet_is_refused(folders, tmp_path, capsys):
  changes = controlnet(folders, teacher__controlnet=folders / "wide")
  assert "its skip_channels are" in support.refused(capsys, tmp_path / "run", **changes)


SIZES = ((2, 6, 6, 4), (3, 128), (3, 128))  # of latents and of two texts


def test_an_editors_unet_without_a_source_is_a_text_to_image_model():
  editor = weights.load(BUNDLED, "teacher")["unet"]
  shape = weights.read_info(BUNDLED, "teacher").networks["unet"].shape
  shape = dataclasses.replace(shape, in_channels=4)
  drawn = Network(abstract(UNet, shape).graphdef, without_source(editor.params))
  draw = np.random.default_rng(0).normal
  z_t, text, null = (draw(size=size).astype(np.float32) for size in SIZES)
  predict = jax.jit(teachers.StableDiffusion.predict_noise)
  found, wanted = (
    predict(teachers.StableDiffusion(net, text, null, jnp.float32(2)), z_t, jnp.int32(700))
    for net in (editor, drawn)
  )
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_depth_pictures_need_a_folder_that_can_be_written(tmp_path, capsys):
  (tmp_path / "file").touch()
  assert depth.main([str(support.SMALL["scene.path"]), f"--out={tmp_path / 'file'}"]) == 1
  error = capsys.readouterr().err
  assert "is a file; name a folder" in error and error.count("\n") == 1
