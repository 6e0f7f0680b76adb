"""Every mistake ends in one sentence with the way out, exit code 1 and nothing written."""

import dataclasses
import json
import shutil

import pytest

from imx2mx_jax import weights
from imx2mx_jax.main import main
from tests.cli import support
from tests.cli.support import MICRO, refused

SCENE = MICRO / "scenes" / "scene_05"
BUNDLED = MICRO / "bundled"


@pytest.fixture
def scene(tmp_path):
  """A copy of the scene that may be spoilt."""
  folder = tmp_path / "scene"
  shutil.copytree(SCENE, folder, ignore=shutil.ignore_patterns("edited", "depth", "ids"))
  return folder


@pytest.fixture
def run_dir(tmp_path):
  return tmp_path / "here" / "runs" / "edit"


def spoil(scene, change):
  """Changes transforms.json: `change` gets its content."""
  file = scene / "transforms.json"
  content = json.loads(file.read_text())
  change(content)
  file.write_text(json.dumps(content))


def set_pose(frame, matrix):
  return lambda content: content["frames"][frame].update(transform_matrix=matrix)


SINGULAR = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
STRETCHED = [[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
MIRRORED = [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


class TestScene:
  def test_no_folder(self, run_dir, capsys, tmp_path):
    assert str(tmp_path / "nowhere") in refused(capsys, run_dir, scene__path=tmp_path / "nowhere")

  def test_no_transforms(self, run_dir, capsys, scene):
    (scene / "transforms.json").unlink()
    assert "transforms.json" in refused(capsys, run_dir, scene__path=scene)

  def test_broken_json(self, run_dir, capsys, scene):
    (scene / "transforms.json").write_text('{"frames": [')
    error = refused(capsys, run_dir, scene__path=scene)
    assert "transforms.json" in error and "line 1" in error

  def test_missing_image(self, run_dir, capsys, scene):
    (scene / "images" / "002.png").unlink()
    assert "002.png" in refused(capsys, run_dir, scene__path=scene)

  def test_unreadable_image(self, run_dir, capsys, scene):
    (scene / "images" / "002.png").write_bytes(b"not a picture")
    error = refused(capsys, run_dir, scene__path=scene)
    assert "002.png" in error and "PNG or JPEG" in error

  def test_size_that_differs_from_the_files(self, run_dir, capsys, scene):
    spoil(scene, lambda content: content.update(w=100))
    error = refused(capsys, run_dir, scene__path=scene)
    assert "128" in error and "100" in error

  @pytest.mark.parametrize("matrix", [SINGULAR, STRETCHED, MIRRORED])
  def test_pose_that_is_no_pose(self, run_dir, capsys, scene, matrix):
    spoil(scene, set_pose(2, matrix))
    assert "frame 2" in refused(capsys, run_dir, scene__path=scene)

  def test_identical_poses(self, run_dir, capsys, scene):
    pose = json.loads((scene / "transforms.json").read_text())["frames"][0]["transform_matrix"]
    spoil(scene, set_pose(2, pose))
    error = refused(capsys, run_dir, scene__path=scene)
    assert "frame 0" in error and "frame 2" in error

  def test_frame_out_of_range(self, run_dir, capsys):
    error = refused(capsys, run_dir, scene__frames="0,99")
    assert "99" in error and "0 to 7" in error

  def test_fewer_than_two_views(self, run_dir, capsys):
    assert "at least 2" in refused(capsys, run_dir, scene__frames="3")

  def test_reference_that_is_not_edited(self, run_dir, capsys):
    error = refused(capsys, run_dir, scene__frames="0,2", scene__reference="5")
    assert "no frame 5" in error and "0, 2" in error


class TestInstruction:
  @pytest.mark.parametrize("instruction", ["", "   "])
  def test_empty(self, run_dir, capsys, instruction):
    assert "--config.instruction" in refused(capsys, run_dir, instruction=instruction)

  def test_longer_than_the_tokenizers_limit(self, run_dir, capsys):
    error = refused(capsys, run_dir, instruction="make the floor sand " * 12)
    assert "48 tokens" in error and "30" in error and "shorten" in error


class TestWeights:
  def test_no_folder(self, run_dir, capsys, tmp_path):
    error = refused(capsys, run_dir, teacher__weights=tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in error and "convert_weights --model=teacher" in error

  def test_not_converted(self, run_dir, capsys, tmp_path):
    released = tmp_path / "released"
    released.mkdir()
    (released / "model_index.json").write_text("{}")
    error = refused(capsys, run_dir, teacher__weights=released)
    assert f"convert_weights --model=teacher --src={released}" in error

  def test_a_student_where_the_teacher_belongs(self, run_dir, capsys):
    error = refused(capsys, run_dir, teacher__weights=BUNDLED / "student")
    assert "student" in error and "--model=teacher" in error

  def test_another_shape_than_described(self, run_dir, capsys, tmp_path):
    folder = shutil.copytree(BUNDLED / "student_vae", tmp_path / "vae")
    info = weights.read_info(folder, "student_vae")
    wider = dataclasses.replace(info.networks["vae"].shape, channels=(16, 32, 128))
    networks = {"vae": dataclasses.replace(info.networks["vae"], shape=wider)}
    weights.write_info(folder, dataclasses.replace(info, networks=networks))
    error = refused(capsys, run_dir, student__vae=folder)
    assert str(folder) in error and "128" in error

  def test_truncated(self, run_dir, capsys, tmp_path):
    folder = shutil.copytree(BUNDLED / "student", tmp_path / "student")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{folder} is damaged" in refused(capsys, run_dir, student__weights=folder)

  def test_an_image_encoder_of_another_family(self, run_dir, capsys, tmp_path):
    folder = shutil.copytree(BUNDLED / "image_encoder", tmp_path / "encoder")
    info = weights.read_info(folder, "image_encoder")
    vision = info.networks["vision"]
    shape = dataclasses.replace(vision.shape, embed_width=512)
    networks = {"vision": dataclasses.replace(vision, shape=shape)}
    weights.write_info(folder, dataclasses.replace(info, networks=networks))
    error = refused(capsys, run_dir, student__image_encoder=folder)
    assert str(folder) in error and "512" in error and "128" in error

  def test_a_teacher_that_sees_no_photograph(self, run_dir, capsys, tmp_path):
    folder = shutil.copytree(BUNDLED / "teacher", tmp_path / "teacher")
    info = weights.read_info(folder, "teacher")
    unet = info.networks["unet"]
    shape = dataclasses.replace(unet.shape, in_channels=4)
    networks = info.networks | {"unet": dataclasses.replace(unet, shape=shape)}
    weights.write_info(folder, dataclasses.replace(info, networks=networks))
    error = refused(capsys, run_dir, teacher__weights=folder)
    assert "4 channels" in error and "instruct-pix2pix" in error

  def test_a_size_that_does_not_divide(self, run_dir, capsys):
    error = refused(capsys, run_dir, student__size=60)
    assert "--config.student.size=60" in error and "multiple of 8" in error


class TestFolder:
  def test_below_a_file(self, tmp_path, capsys):
    (tmp_path / "file").touch()
    error = refused(capsys, tmp_path / "file" / "run")
    assert "cannot be written" in error and "--config.run_dir" in error

  def test_a_file(self, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert "is a file" in refused(capsys, tmp_path / "file")

  def test_somebody_elses(self, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").touch()
    assert "me.jpg" in refused(capsys, tmp_path / "photos")


class TestCommandLine:
  def refused(self, capsys, *arguments):
    code = main(["main", *arguments])
    out, error = capsys.readouterr()
    assert (code, out) == (1, "")
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error

  @pytest.mark.parametrize(
    "wrong, right",
    [
      ("distil.dt", "distill.dt"),
      ("distill.iteration", "distill.iterations"),
      ("lr", "optim.lr"),
      ("instructions", "instruction"),
      ("scene.paths", "scene.path"),
    ],
  )
  def test_a_misspelt_field_gets_the_nearest_right_one(self, capsys, wrong, right):
    error = self.refused(capsys, support.CONFIG, f"--config.{wrong}=5")
    assert f"--config.{wrong} is not a field; did you mean --config.{right}?" in error

  def test_a_group_of_fields_cannot_be_set(self, capsys):
    error = self.refused(capsys, support.CONFIG, "--config.output=teacher")
    assert "output.decoder" in error

  @pytest.mark.parametrize(
    "wrong, wanted",
    [
      ("seed=abc", "a whole number"),
      ("optim.lr=fast", "a number"),
      ("preview=maybe", "true or false"),
    ],
  )
  def test_a_wrong_type(self, capsys, wrong, wanted):
    error = self.refused(capsys, support.CONFIG, f"--config.{wrong}")
    assert f"--config.{wrong}: it must be {wanted}" in error

  @pytest.mark.parametrize("argument", ["--seed=3", "seed", "--config.seed"])
  def test_what_is_not_an_option(self, capsys, argument):
    assert "--config.FIELD=VALUE" in self.refused(capsys, support.CONFIG, argument)

  def test_no_config_file(self, capsys, tmp_path):
    assert "configs/default.py" in self.refused(capsys)
    assert str(tmp_path / "x.py") in self.refused(capsys, f"--config={tmp_path / 'x.py'}")

  def test_an_unknown_edit_of_the_paper(self, capsys):
    config = f"--config={support.REPOSITORY / 'configs' / 'paper.py'}"
    assert "did you mean 'person_knight'" in self.refused(capsys, f"{config}:person_night")

  @pytest.mark.parametrize(
    "line, reason",
    [
      ("config.distil.dt = 5", 'Did you mean "distill"'),
      ("config.optim.lr = 'fast'", "TypeError"),
      ("config.seed = 1 +", "SyntaxError"),
    ],
  )
  def test_a_mistake_in_a_config_file(self, capsys, tmp_path, line, reason):
    file = tmp_path / "mine.py"
    file.write_text(
      "from imx2mx_jax import config as settings\n\n\n"
      f"def get_config():\n  config = settings.default()\n  {line}\n  return config\n"
    )
    error = self.refused(capsys, f"--config={file}")
    assert f"{file}" in error and "line 6" in error and reason in error


@pytest.mark.parametrize(
  "field, value",
  [
    ("seed", -1),
    ("method", "distil"),
    ("compat", "author"),
    ("dtype", "float16"),
    ("log_every", 0),
    ("teacher.steps", 0),
    ("teacher.text_guidance", "nan"),
    ("distill.t_max", 1000),
    ("distill.t_min", 1000),
    ("distill.dt", 0),
    ("distill.teacher_t", "normal"),
    ("distill.shape_factor", 0),
    ("optim.lr", "inf"),
    ("optim.b1", 1),
    ("output.decoder", "vae"),
  ],
)
def test_a_senseless_setting(run_dir, capsys, field, value):
  error = refused(capsys, run_dir, **{field.replace(".", "__"): value})
  assert f"--config.{field}=" in error and "must" in error


def test_a_highest_timestep_below_the_lowest(run_dir, capsys):
  few = {"distill__t_min": 400, "distill__t_max": 400, "distill__upper": 399}
  error = refused(capsys, run_dir, method="collaborative", **few)
  assert "--config.distill.upper=399" in error and "t_min=400" in error


def test_collaborative_sampling_by_a_teacher_of_ones_own(run_dir, capsys):
  error = refused(capsys, run_dir, method="collaborative", teacher__kind="mine.py")
  assert "--config.method=collaborative" in error and "mine.py" in error
