"""Converted folders: what is loaded, and every complaint about one."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from safetensors.numpy import load_file, save_file

from convert_weights import reader, writer
from imx2mx_jax import weights
from imx2mx_jax.errors import WeightsError
from tests import released

REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
  """A tiny autoencoder in each format; not to be changed."""
  folder = tmp_path_factory.mktemp("converted")
  model = reader.open_model("student_vae", str(released.write("student_vae", folder / "src")))
  for format in weights.FORMATS:
    writer.write(model, folder / format, writer.Options(format=format))
  return folder


@pytest.fixture
def copy(converted, tmp_path):
  return lambda format: shutil.copytree(converted / format, tmp_path / format)


def complaint(folder, kind="student_vae") -> str:
  with pytest.raises(WeightsError) as error:
    weights.load(folder, kind)
  message = str(error.value)
  assert "\n" not in message
  assert str(folder) in message
  return message


def edit_info(folder, **changes):
  file = folder / "model.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_weights_of_another_kind_are_refused(converted):
  message = complaint(converted / "orbax", "teacher")
  assert "holds a student_vae, not a teacher" in message
  assert "python -m convert_weights --model=teacher" in message


def test_released_weights_are_answered_with_the_command_that_converts_them(converted):
  src = converted / "src" / "vae"
  command = f"`python -m convert_weights --model=student_vae --src={src} --dst=weights/student_vae`"
  assert command in complaint(src)
  file = src / "diffusion_pytorch_model.safetensors"
  assert f"--src={file}" in complaint(file)


def test_a_missing_folder_is_answered_with_the_command_that_makes_one(tmp_path):
  assert "does not exist; weights are converted first" in complaint(tmp_path / "nothing")
  assert "has no model.json; weights are converted first" in complaint(tmp_path)


@pytest.mark.parametrize("format", weights.FORMATS)
def test_a_file_that_was_cut_off_is_noticed(copy, format):
  folder = copy(format)
  files = [path for path in folder.rglob("*") if path.is_file() and path.name != "model.json"]
  largest = max(files, key=lambda path: path.stat().st_size)
  os.truncate(largest, largest.stat().st_size // 2)
  message = complaint(folder)
  assert "is damaged: its vae takes" in message
  assert "convert it again" in message


@pytest.mark.parametrize("format", weights.FORMATS)
def test_weights_that_are_gone_are_noticed(copy, format):
  folder = copy(format)
  shutil.rmtree(folder / "vae", ignore_errors=True)
  (folder / "model.safetensors").unlink(missing_ok=True)
  assert "its vae takes 0 bytes" in complaint(folder)


@pytest.mark.parametrize("format", weights.FORMATS)
def test_overwritten_bytes_are_one_sentence(copy, format, capfd):
  folder = copy(format)
  for file in folder.rglob("*"):
    if file.is_file() and file.name != "model.json":
      file.write_bytes(b"\xff" * file.stat().st_size)
  assert "vae is damaged (" in complaint(folder)
  assert not capfd.readouterr().err


@pytest.mark.parametrize("format", weights.FORMATS)
def test_weights_of_another_shape_are_refused(copy, format):
  folder = copy(format)
  info = json.loads((folder / "model.json").read_text())
  info["networks"]["vae"]["shape"]["channels"] = [4, 16]
  edit_info(folder, networks=info["networks"])
  message = complaint(folder)
  assert "vae is not the network that model.json describes: " in message
  assert "wanted [" in message


def test_missing_and_foreign_arrays_are_refused(copy):
  folder = copy("safetensors")
  file = folder / "model.safetensors"
  tensors = load_file(file)
  moved = tensors | {"vae/quant/another": tensors.pop("vae/quant/bias")}
  save_file(moved, file)
  info = json.loads((folder / "model.json").read_text())
  info["networks"]["vae"]["size"] = file.stat().st_size
  edit_info(folder, networks=info["networks"])
  assert "vae/quant" not in complaint(folder)
  assert "quant/bias is missing" in complaint(folder)


@pytest.mark.parametrize(
  "changes",
  [
    {"kind": "a kind of tomorrow"},
    {"format": "zip"},
    {"networks": {}},
    {"networks": {"vae": {"shape": {"depth": 3}, "parts": 1, "size": 1}}},
    {"another": "field"},
  ],
)
def test_a_model_json_that_makes_no_sense_is_refused(copy, changes):
  folder = copy("orbax")
  edit_info(folder, **changes)
  message = complaint(folder)
  assert "model.json cannot be read" in message
  assert "convert it again" in message


def test_a_model_json_that_is_no_json_is_refused(copy):
  folder = copy("orbax")
  (folder / "model.json").write_text("{")
  assert "model.json cannot be read" in complaint(folder)


WITHOUT_NETWORK = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("the network was used")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from imx2mx_jax import tokenizer, weights
networks = weights.load(sys.argv[1], "teacher")
print(len(networks), tokenizer.encode(tokenizer.load(sys.argv[1] + "/tokenizer"), ["a"]).tolist())
"""


def test_nothing_touches_the_network_once_converted(tmp_path):
  model = reader.open_model("teacher", str(released.write("teacher", tmp_path / "src")))
  writer.write(model, tmp_path / "dst", writer.Options())
  shutil.rmtree(tmp_path / "src")
  run = subprocess.run(
    [sys.executable, "-W", "error", "-c", WITHOUT_NETWORK, tmp_path / "dst"],
    cwd=REPOSITORY,
    env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout.split("\n")[0].startswith("3 [[10, 0, 11")
  assert not run.stderr
  assert not list((tmp_path).glob("hub/*"))
