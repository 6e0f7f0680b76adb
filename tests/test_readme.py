"""What the README shows is what is run."""

import pathlib
import re

REPOSITORY = pathlib.Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()


def test_ci_runs_the_readme_s_test_command():
  command = next(line for line in README.splitlines() if line.endswith("loadfile"))
  assert command in (REPOSITORY / ".ci" / "run").read_text()


def test_every_file_that_the_readme_names_exists():
  linked = re.findall(r"\]\((?!http)([^)#]+)\)", README)
  named = re.findall(r"`((?:imx2mx_jax|configs|tests|benchmarks|convert_weights)/[\w/.]*)`", README)
  for name in linked + named:
    assert (REPOSITORY / name).exists(), name


def test_every_setting_that_the_readme_shows_is_a_field():
  from imx2mx_jax import config
  from imx2mx_jax.train import settings

  known = config.describe() + settings.describe()
  for name in re.findall(r"--config\.([\w.]+)", README):
    assert f"--config.{name}:" in known, name
