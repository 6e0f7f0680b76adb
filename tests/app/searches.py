"""Searches for cameras that find nothing by themselves; another process imports them."""

import pathlib
import shutil
import time

from imx2mx_jax.errors import SceneError
from tests.cli import support

SCENE = support.MICRO / "scenes" / "scene_05"


def found(photos, out, work, told):
  assert len(list(photos.iterdir())) == 8
  told.send("8 of 8 photographs have cameras that fit")
  shutil.copytree(SCENE, out)
  told.send(out)


def refused(photos, out, work, told):
  told.send(SceneError("0 of 8 photographs have one; photograph it again"))


def broken(photos, out, work, told):
  pathlib.Path(out.parent / f".{out.name}-staged").mkdir(parents=True)
  told.close()


def endless(photos, out, work, told):
  (out.parent / f".{out.name}-staged").mkdir(parents=True)
  told.send("8 photographs; matching 28 pairs")
  time.sleep(600)
