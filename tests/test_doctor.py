"""The text that goes into a bug report."""

import json
import shutil

import jax

from imx2mx_jax import __version__, compilation
from imx2mx_jax.doctor import main
from tests.cli import support


def told(capsys, *arguments) -> dict[str, list[str]]:
  """{title: its lines}."""
  assert main(["doctor", *map(str, arguments)]) == 0
  sections: dict[str, list[str]] = {}
  for line in capsys.readouterr().out.splitlines():
    if not line.startswith("  "):
      title = line.removesuffix(":")
    sections.setdefault(title, []).append(line.strip())
  return sections


def test_versions_machine_and_devices_are_told(capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  sections = told(capsys, support.REPOSITORY / "configs" / "default.py")
  assert f"imx2mx_jax {__version__} in {support.MICRO.parent}" in sections["program"]
  assert f"jax {jax.__version__}" in sections["program"]
  assert any("free of" in line for line in sections["machine"])
  assert f"{compilation.VARIABLE}=off" in sections["machine"]
  assert "0: cpu (cpu)" in sections["devices"]
  assert not list(tmp_path.iterdir())


def test_kept_programs_are_counted(capsys, monkeypatch, tmp_path):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
  (tmp_path / "program").write_bytes(bytes(2_000_000))
  assert f"{tmp_path}: 1 files, 0.002 GB" in told(capsys)["compiled programs"]


def test_weights_are_told_for_what_they_are(capsys, tmp_path):
  shutil.copytree(support.MICRO / "bundled" / "student_vae", tmp_path / "student_vae")
  damaged = tmp_path / "teacher"
  damaged.mkdir()
  (damaged / "model.json").write_text(json.dumps({"kind": "teacher"}))
  file = tmp_path / "own.py"
  file.write_text(
    "from imx2mx_jax import config as settings\n\n\n"
    f"def get_config():\n  config = settings.default()\n  config.instruction = 'x'\n"
    f"  config.teacher.weights = {str(damaged)!r}\n  config.scene.path = 'x'\n  return config\n"
  )
  sections = told(capsys, file)
  assert any(
    line.startswith(f"{tmp_path / 'student_vae'}: student_vae,") for line in sections["weights"]
  )
  assert any(
    line.startswith(f"{damaged}: {damaged / 'model.json'} cannot be read")
    for line in sections["weights"]
  )
  assert sections["configs"][1].startswith(f"{file} would not run: {damaged}")


def test_configs_are_told_to_run_or_why_not(capsys, tmp_path):
  default = support.REPOSITORY / "configs" / "default.py"
  _, runs, misses = told(capsys, default, tmp_path / "none.py")["configs"]
  assert runs.startswith(f"{default} would run, in float32; holds at least 0.101 GB (default), ")
  assert runs.endswith("memory=default fits")
  assert misses.startswith(f"{tmp_path / 'none.py'} would not run: ") and "no such file" in misses


def test_a_backend_that_does_not_start_is_told(capsys, monkeypatch):
  def fails(*_):
    raise RuntimeError("Unable to initialize backend 'tpu': it is busy\nmore")

  monkeypatch.setattr(jax, "local_devices", fails)
  monkeypatch.setattr(jax, "default_backend", fails)
  sections = told(capsys, support.REPOSITORY / "configs" / "default.py")
  assert "none: Unable to initialize backend 'tpu': it is busy" in sections["devices"]
  assert sections["configs"][-1].startswith("nothing would run: Unable to")
