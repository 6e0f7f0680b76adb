"""The page's server: for this machine alone, nothing asked of the network, files in one folder."""

import dataclasses
import functools
import importlib.util
import os
import pathlib
import socket
import tempfile
import time
from collections.abc import Sequence

import jax

from imx2mx_jax import compilation, config, edit, terminal, weights
from imx2mx_jax.app.worker import Worker
from imx2mx_jax.config import ConfigDict
from imx2mx_jax.errors import ConfigError
from imx2mx_jax.session import Loader

ADDRESS = "127.0.0.1"
_CONFIG = "--config=configs/default.py"


@dataclasses.dataclass(frozen=True)
class Setting:
  """What the page was started with.

  argv: settings as on a command line. tree: the same. frames, steps: of a video.
  """

  out: pathlib.Path
  argv: tuple[str, ...]
  tree: ConfigDict
  platform: str
  frames: int
  steps: int
  load: Loader


def prepared(out: pathlib.Path, argv: Sequence[str], frames: int, steps: int) -> Setting:
  """Checks the settings and makes the folder. Raises: ConfigError."""
  if importlib.util.find_spec("gradio") is None:
    raise ConfigError('the page needs Gradio: pip install "imx2mx_jax[app]"')
  argv = tuple(argv)
  if not any(argument.startswith("--config=") for argument in argv):
    argv = (_CONFIG, *argv)
  tree = config.parse(["imx2mx_jax.app", *argv])
  own_scene(tree)
  compilation.keep()
  out = out.expanduser().absolute()
  try:
    (out / ".temporary").mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ConfigError(
      f"--out={out}: cannot be written ({error.strerror}); choose another"
    ) from error
  load = functools.partial(edit.load_models, load=weights.keeping())
  return Setting(out, argv, tree, jax.default_backend(), frames, steps, load)


def own_scene(tree: ConfigDict) -> pathlib.Path | None:
  """The folder of the settings' scene, None where they name none. Raises: ConfigError."""
  if not tree.scene.path:
    return None
  path = pathlib.Path(tree.scene.path).expanduser()
  folder = path.parent if path.is_file() else path
  if not folder.is_dir():
    raise ConfigError(
      f"--config.scene.path={tree.scene.path}: there is no such folder on this machine; copy it "
      "here, or leave it out and drop it on the page"
    )
  return folder


def serve(setting: Setting, port: int, stop: terminal.Stop) -> None:
  """Serves the page until a signal is heard; then the run at work saves its state.

  Raises: ConfigError where the port is taken.
  """
  _refuse_taken(port)
  temporary = str(setting.out / ".temporary")
  tempfile.tempdir = temporary
  os.environ["GRADIO_TEMP_DIR"] = temporary  # uploads, and what the page shows
  os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
  from imx2mx_jax.app import layout  # Gradio reads its variables as it is imported

  worker = Worker()
  layout.launch(setting, worker, ADDRESS, port)
  print(f"http://{ADDRESS}:{port}", flush=True)
  try:
    while not stop.heard:
      time.sleep(0.2)
  finally:
    worker.close()
  stop.obeyed = True


def _refuse_taken(port: int) -> None:
  with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind((ADDRESS, port))
    except (OSError, OverflowError) as error:
      raise ConfigError(
        f"--port={port}: cannot be listened on ({error}); choose another"
      ) from error
