"""python -m convert_weights, as a user runs it."""

import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys

import pytest

from imx2mx_jax.weights import read_info
from tests import released
from tests.cli import hub

REPOSITORY = pathlib.Path(__file__).parents[2]


def start(*arguments, env=None) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-u", "-W", "error", "-m", "convert_weights", *map(str, arguments)],
    cwd=REPOSITORY,
    env=os.environ | (env or {}),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
  out, err = process.communicate(timeout=300)
  assert "Traceback" not in err
  return process.returncode, out, err


def run(*arguments, env=None) -> tuple[int, str, str]:
  return finish(start(*arguments, env=env))


def assert_refused(outcome, says: str):
  code, _, err = outcome
  assert code == 1
  message = err[err.index("error: ") :]
  assert says in message
  assert "error" not in err.removesuffix(message)  # progress bars of a download at most


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> pathlib.Path:
  return released.write("student_vae", tmp_path_factory.mktemp("cli") / "vae")


def test_a_model_is_converted_compared_and_replaced(vae, tmp_path):
  common = ("--model=student_vae", f"--src={vae}", f"--dst={tmp_path / 'dst'}")
  code, out, err = run(*common)
  assert (code, err) == (0, "")
  assert out.splitlines()[-1] == str(tmp_path / "dst")
  assert "vae: 124 arrays" in out
  code, out, err = run(*common, "--verify")
  assert (code, err) == (0, "")
  assert "bit for bit" in out
  before = read_info(tmp_path / "dst", "student_vae")
  assert_refused(run(*common), "give --force to replace them")
  assert read_info(tmp_path / "dst", "student_vae") == before
  options = ("--force", "--dtype=bfloat16", "--format=safetensors", "--licence=MIT")
  assert run(*common, *options)[0] == 0
  after = read_info(tmp_path / "dst", "student_vae")
  assert (after.format, after.licence) == ("safetensors", "MIT")
  assert [path.name for path in tmp_path.iterdir()] == ["dst"]


def test_a_model_of_a_run_goes_back_once(vae, tmp_path):
  assert run("--model=student_vae", f"--src={vae}", f"--dst={tmp_path / 'run/student_vae'}")[0] == 0
  folders = (f"--src={tmp_path / 'run'}", f"--dst={tmp_path / 'back'}")
  common = ("--to=torch", "--model=student_vae", *folders)
  assert_refused(run(*common, "--format=orbax"), "--format has no meaning with --to=torch")
  code, out, err = run(*common, "--dtype=float16")
  assert (code, err) == (0, "")
  assert out.splitlines()[-1] == str(tmp_path / "back")
  assert "vae: 124 arrays" in out
  assert_refused(run(*common), "exists and is left alone")
  assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "run"]
  back = sorted(path.name for path in (tmp_path / "back").iterdir())
  assert back == ["NOTICE", "config.json", "diffusion_pytorch_model.safetensors"]


def test_the_map_is_explained_without_any_weights():
  code, out, err = run("--model=controlnet", "--explain")
  assert (code, err) == (0, "")
  assert "lllyasviel/sd-controlnet-depth" in out
  assert "controlnet: 340 arrays" in out
  line = "conv_in/kernel [3, 3, 4, 320] <- conv conv_in.weight [320, 4, 3, 3]"
  assert line in out.splitlines()


def test_the_map_of_a_file_is_its_own_and_may_be_cut_off(vae):
  process = start("--model=student_vae", f"--src={vae}", "--explain")
  process.stdout.readline()
  process.stdout.close()  # as `| head -1` does
  assert process.wait(timeout=300) == 0
  assert not process.stderr.read()
  process.stderr.close()


def test_mistakes_are_one_message_and_exit_code_1(vae, tmp_path):
  """Started together: most of the time is Python's start."""
  (tmp_path / "broken" / "vae").mkdir(parents=True)
  (tmp_path / "broken" / "vae" / "diffusion_pytorch_model.bin").touch()
  model, src, dst = "--model=student_vae", f"--src={vae}", f"--dst={tmp_path / 'dst'}"
  cases = {
    "student has no modelv1.1": (model.replace("_vae", ""), src, dst),
    "is a pickle": (model, f"--src={tmp_path / 'broken'}", dst),
    "does not exist; --src takes": (model, f"--src={tmp_path / 'nothing'}", dst),
    "--src is missing": (model, dst),
    "--dst is missing": (model, src),
    "belongs to no flag": (model, src, dst, "surplus"),
    "does not exist; weights are converted first": (model, src, dst, "--verify"),
    "is left alone": (model, src, f"--dst={tmp_path / 'broken'}", "--force"),
    "cannot write": (model, src, "--dst=/proc/nowhere/dst"),
  }
  processes = {says: start(*arguments) for says, arguments in cases.items()}
  for says, process in processes.items():
    assert_refused(finish(process), says.removeprefix("student "))
  assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_misspelt_flag_is_answered_with_the_right_one():
  code, _, err = run("--model=student_vae", "--revison=x")
  assert code == 1
  assert "Did you mean: revision" in err


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> pathlib.Path:
  """An autoencoder that takes a moment to convert."""
  folder = tmp_path_factory.mktemp("large") / "vae"
  config = released.CONFIGS["vae"] | {"block_out_channels": [256, 512], "norm_num_groups": 32}
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(released.CONFIGS, "vae", config)
    return released.write("student_vae", folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_conversion_leaves_nothing(large, number, tmp_path):
  process = start("--model=student_vae", f"--src={large}", f"--dst={tmp_path / 'dst'}")
  assert process.stdout.readline().startswith("vae: ")
  process.send_signal(number)
  code, _, err = finish(process)
  assert code == 128 + number
  assert err == "interrupted; nothing was written\n"
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["orbax", "safetensors"])
def test_a_full_disk_leaves_nothing(large, format, tmp_path):
  """A limit on the size of files stands for the disk: both fail in the middle of writing."""
  common = ("--model=student_vae", f"--src={large}", f"--dst={tmp_path / 'dst'}")
  process = start(*common, f"--format={format}")
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (10 << 20, 10 << 20))
  outcome = finish(process)
  assert_refused(outcome, "nothing is left there; free the disk")
  assert outcome[2].count("\n") == 1
  assert not list(tmp_path.iterdir())


def test_a_hub_id_downloads_what_is_needed_and_no_more(vae, tmp_path):
  repository = tmp_path / "hub" / "someone" / "pipeline"
  shutil.copytree(vae, repository)
  for surplus in ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin"):
    (repository / surplus).parent.mkdir(exist_ok=True)
    (repository / surplus).write_bytes(b"surplus")
  shutil.copytree(vae, tmp_path / "hub" / "someone" / "gated")
  with hub.serve(tmp_path / "hub", gated="someone/gated") as (address, sent):
    env = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    ask = lambda source, *flags, **more: start(
      "--model=student_vae",
      f"--src={source}",
      f"--dst={tmp_path / source.replace('/', '-')}",
      *flags,
      env=env | more,
    )
    processes = {
      "gated": ask("someone/gated"),
      "missing": ask("someone/missing"),
      "revision": ask("someone/pipeline", "--revision=v9"),
      "offline": ask("someone/pipeline", HF_HUB_OFFLINE="1"),
    }
    outcomes = {name: finish(process) for name, process in processes.items()}
    assert not sent
    code, _, err = finish(ask("someone/pipeline", "--revision=main"))
  assert code == 0, err
  assert sent == {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
  info = json.loads((tmp_path / "someone-pipeline" / "model.json").read_text())
  assert info["source"] == f"someone/pipeline@{hub.COMMIT}"
  assert_refused(outcomes["gated"], "accept its licence at https://huggingface.co/someone/gated")
  assert "set HF_TOKEN" in outcomes["gated"][2]
  assert_refused(outcomes["missing"], "there is no file or folder someone/missing here and no such")
  assert_refused(outcomes["revision"], "someone/pipeline has no revision 'v9'")
  assert_refused(outcomes["offline"], "cannot download someone/pipeline (")


def test_no_network_is_one_sentence(tmp_path):
  env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
  arguments = ("--model=student", "--src=stabilityai/stable-virtual-camera", "--dst=x")
  outcome = run(*arguments, env=env)
  assert_refused(outcome, "cannot download stabilityai/stable-virtual-camera (")
  assert "give a local folder with --src" in outcome[2]
