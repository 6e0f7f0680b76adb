"""The trainings through the command line, on folders: written, resumed, on two devices."""

import dataclasses
import functools
import json
import os
import shutil
import signal

import numpy as np
import pytest

from imx2mx_jax import checkpoint, tokenizer, weights
from imx2mx_jax.train import export
from imx2mx_jax.train.__main__ import main
from imx2mx_jax.train.settings import FrozenConfig, TrainConfig
from tests import tiny
from tests.train import support
from tests.train.test_readout import SEVA

STEPS = support.STEPS
KINDS = {
  "vae": ["student_vae"],
  "clip": ["metric_clip", "image_encoder"],
  "teacher": ["teacher"],
  "controlnet": ["controlnet"],
  "student": ["student"],
}
STANDS_ON = {
  "teacher": ["vae", "clip"],
  "controlnet": ["vae", "clip", "teacher"],
  "student": ["vae", "clip"],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, cache):
  """{model: its finished training, "pictures" and "scenes": what was learned from}."""
  root = tmp_path_factory.mktemp("trained")
  data = {
    "pictures": support.pictures(root / "pictures"),
    "scenes": support.scenes(root / "scenes"),
  }
  return {name: root / name for name in KINDS} | data


def settings(model, folders):
  """What a training reads besides its defaults."""
  if model == "student":
    data = {"data__source": folders["scenes"]}
  else:
    data = {"data__source": folders["pictures"]}
  vae, clip = folders["vae"] / "student_vae", folders["clip"]
  frozen = {
    "vae": {},
    "clip": {"frozen__tokenizer": support.TOKENIZER},
    "teacher": {"frozen__vae": vae, "frozen__text_encoder": clip / "metric_clip"},
    "controlnet": {
      "frozen__vae": vae,
      "frozen__text_encoder": clip / "metric_clip",
      "frozen__unet": folders["teacher"] / "teacher",
    },
    "student": {"frozen__vae": vae, "frozen__image_encoder": clip / "image_encoder"},
  }
  return data | frozen[model]


@pytest.fixture(scope="module")
def trained(folders, cache):
  """A function of a model: its finished training, and before it those that it stands on."""

  @functools.cache
  def folder(model):
    for needed in STANDS_ON.get(model, ()):
      folder(needed)
    shutil.rmtree(folders[model], ignore_errors=True)  # of an attempt that failed
    support.ran(cache, model, folders[model], **settings(model, folders))
    return folders[model]

  return folder


def result(folder):
  """All that must come out the same, bit for bit."""
  contents = {path.name: path.read_bytes() for path in (folder / "samples").glob("*")}
  state = folder / "state" / str(STEPS)
  held = checkpoint.restore(state, checkpoint.contents(state))
  contents |= {name: array.tobytes() for name, array in held.items()}
  models = folder.glob("*/model.safetensors")
  return contents | {str(path.relative_to(folder)): path.read_bytes() for path in models}


@pytest.mark.parametrize(
  "model",
  [pytest.param(m, marks=[pytest.mark.slow] * (m in ("teacher", "controlnet"))) for m in KINDS],
)
def test_a_training_writes_what_the_other_commands_read(trained, model):
  folder = trained(model)
  for kind in KINDS[model]:
    networks = weights.load(folder / kind, kind)
    assert all(np.isfinite(x).all() for net in networks.values() for x in net.params.values())
    assert weights.read_info(folder / kind, kind).licence == "Apache-2.0"
  steps = [row["iteration"] for row in support.journal(folder)]
  assert steps == [2, 4, 6]
  assert {"loss", "grad_norm", "lr", "skipped"} <= support.journal(folder)[0].keys()
  samples = [] if model == "clip" else ["000004.png", "000006.png"]
  assert sorted(path.name for path in folder.glob("samples/*")) == samples


def test_an_autoencoder_from_scratch_scales_its_latents_to_unit_size(trained):
  row = support.journal(trained("vae"))[-1]
  info = weights.read_info(trained("vae") / "student_vae", "student_vae")
  factor = info.networks["vae"].shape.scaling_factor
  assert factor == pytest.approx(1 / row["sample_latents_std"], rel=1e-4)


@pytest.mark.slow
def test_a_teacher_comes_with_what_it_was_trained_with(trained):
  teacher = weights.load(trained("teacher") / "teacher", "teacher")
  vae = weights.load(trained("vae") / "student_vae", "student_vae")["vae"]
  clip = weights.load(trained("clip") / "metric_clip", "metric_clip")["clip"]
  assert teacher["vae"].graphdef == vae.graphdef
  for path, array in teacher["vae"].params.items():
    assert np.array_equal(array, vae.params[path])
  words = tokenizer.load(trained("teacher") / "teacher" / weights.TOKENIZER)
  assert words.tokenize("make it night") == ["make</w>", "it</w>", "night</w>"]
  # The words are learned on from CLIP's: as configs/train/teacher.py has it.
  learned = teacher["text_encoder"].params
  assert learned.keys() == {path[5:] for path in clip.params if path.startswith("text/")}
  for path, array in learned.items():
    start = clip.params[f"text/{path}"]
    assert not np.array_equal(array, start), path
    assert np.allclose(array, start, atol=STEPS * 0.01), path


@pytest.mark.parametrize("model", ["vae", pytest.param("student", marks=pytest.mark.slow)])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(
  folders, trained, cache, tmp_path, model
):
  undisturbed, folder, given = trained(model), tmp_path / "run", settings(model, folders)
  with support.started(cache, model, folder, **given) as process:
    for line in process.stdout:
      if line.startswith("iteration 2 "):
        process.send_signal(signal.SIGINT)
        break
    rest = process.stdout.read().splitlines()
    assert process.wait() == 130
  assert "the same command goes on from here" in rest[-2] and rest[-1] == str(folder)
  saved = max(int(state.name) for state in (folder / "state").glob("[0-9]*"))
  assert 2 <= saved < STEPS
  lines = support.ran(cache, model, folder, **given)
  assert f"going on after {saved} steps" in lines
  assert result(folder) == result(undisturbed)
  assert support.journal(folder) == support.journal(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "remat"), [("vae", False), ("student", True)])
def test_two_devices_learn_what_one_learns(folders, trained, cache, tmp_path, model, remat):
  undisturbed = trained(model)
  given = settings(model, folders)
  support.ran(cache, model, tmp_path / "run", devices=2, remat=remat, **given)
  rows = zip(support.journal(tmp_path / "run"), support.journal(undisturbed), strict=True)
  for found, wanted in rows:
    assert found.keys() == wanted.keys()
    assert found == pytest.approx(wanted, rel=1e-3)


def test_what_does_not_learn_stays_and_what_is_started_from_goes_on(
  folders, trained, cache, tmp_path
):
  given = settings("vae", folders) | {"start": trained("vae") / "student_vae"}
  decoder = "vae/(decoder|post_quant)/.*"
  support.ran(cache, "vae", tmp_path / "run", learns=decoder, stored="float16", **given)
  before = weights.load(trained("vae") / "student_vae", "student_vae")["vae"]
  after = weights.load(tmp_path / "run" / "student_vae", "student_vae")["vae"]
  assert before.graphdef == after.graphdef
  for path, array in before.params.items():
    learned = path.startswith(("decoder", "post_quant"))
    rounded = np.asarray(array).astype(np.float16)
    assert np.array_equal(rounded, np.float16(after.params[path])) != learned, path


def refused(capsys, model, run_dir, **changes) -> str:
  code = main(["train", *support.arguments(model, run_dir, **changes)])
  error = capsys.readouterr().err
  assert code == 1
  assert error.startswith("error: ") and error.count("\n") == 1, error
  return error


@pytest.mark.parametrize(
  ("model", "changes", "says"),
  [
    ("vae", {"shape__chanels": 3}, "did you mean --config.shape.channels?"),
    ("vae", {"batch": 0}, "--config.batch=0: it must be 1 or more"),
    ("vae", {"learns": "unet/.*"}, "matches no parameter"),
    ("vae", {"data__size": 15}, "--config.data.size=15: it must be a multiple of 2"),
    ("vae", {"readout": True}, "--config.readout=True: a vae has none"),
    ("vae", {"data__source": "nowhere"}, "--config.data.source=nowhere: there is no such folder"),
    ("vae", {"start": "nowhere"}, "nowhere does not exist"),
    ("student", {"loss__inputs": (0.5, 0.4)}, "shares whose sum is 1"),
    ("student", {"data__frames": 99}, "from 1 to 20"),
    ("student", {"data__frames": 9, "data__source": "micro"}, "a micro world has 8 views"),
    ("vae", {"learns": "vae/("}, "--config.learns='vae/(': it is no pattern"),
    ("teacher", {"frozen__vae": ""}, "--config.frozen.vae=''"),
  ],
)
def test_a_mistake_is_said_in_one_sentence(folders, capsys, tmp_path, model, changes, says):
  assert says in refused(capsys, model, tmp_path / "run", **settings(model, folders) | changes)
  assert not os.path.exists(tmp_path / "run" / "config.json")


def test_a_training_goes_on_with_what_it_began_with_only(folders, trained, capsys):
  given = settings("vae", folders)
  error = refused(capsys, "vae", trained("vae"), **given | {"optim__lr": 0.5})
  assert "--config.optim.lr was 0.001 and is 0.5 now" in error


@pytest.mark.parametrize(("name", "text"), [("letter.txt", ""), ("config.json", "{}")])
def test_a_folder_of_something_else_is_left_alone(folders, capsys, tmp_path, name, text):
  (tmp_path / name).write_text(text)
  assert "other things" in refused(capsys, "vae", tmp_path, **settings("vae", folders))


def test_a_file_is_no_folder(folders, capsys, tmp_path):
  (tmp_path / "letter.txt").write_text("")
  error = refused(capsys, "vae", tmp_path / "letter.txt", **settings("vae", folders))
  assert "letter.txt is a file" in error


def test_weights_that_are_trained_again_have_another_description(trained, tmp_path):
  info = weights.read_info(trained("vae") / "student_vae", "student_vae")
  params = weights.load(trained("vae") / "student_vae", "student_vae")["vae"].params
  described = []
  for number in range(2):
    folder, origin = tmp_path / str(number), export.Origin(info.source, info.licence)
    numbers = {path: x + number for path, x in params.items()}
    shapes = {"vae": info.networks["vae"].shape}
    export.write(folder, "student_vae", shapes, {"vae": numbers}, origin)
    described.append((folder / weights.INFO).read_text())
  assert described[0] != described[1]


def test_a_teacher_bears_the_licences_of_what_is_written_with_it(trained, tmp_path):
  vae = shutil.copytree(trained("vae") / "student_vae", tmp_path / "vae")
  told = json.loads((vae / weights.INFO).read_text())
  told |= {"licence": "OpenRAIL", "notice": "Somebody made it."}
  (vae / weights.INFO).write_text(json.dumps(told))
  frozen = FrozenConfig(vae=str(vae), text_encoder=str(support.MICRO / "bundled" / "metric_clip"))
  run = TrainConfig(None, None, model="teacher", licence="Apache-2.0", frozen=frozen)
  origin = export._origin(run)
  assert origin.licence == "Apache-2.0; OpenRAIL" and "Somebody made it." in origin.notice


def test_a_network_without_a_read_out_is_not_taken_for_one_with_it(folders, capsys, tmp_path):
  models = tiny.models(tmp_path)
  tiny.write(tmp_path, "student", seva=dataclasses.replace(SEVA, context_width=tiny.WIDTH))
  given = settings("student", folders) | {
    "frozen__vae": models["student.vae"],
    "frozen__image_encoder": models["student.image_encoder"],
    "start": models["student.weights"],
  }
  error = refused(capsys, "student", tmp_path / "run", **given)
  assert f"--config.readout=True: {models['student.weights']} has none" in error
