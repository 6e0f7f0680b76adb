"""Compiled programs kept on disk, so that the next process need not compile them again."""

import os
import pathlib
import platform

import jax

VARIABLE = "IMX2MX_CACHE"
"""The environment variable that names another folder, or "off"."""


def folder() -> pathlib.Path | None:
  """Where compiled programs are kept; None: nowhere.

  JAX_COMPILATION_CACHE_DIR wins, then IMX2MX_CACHE, then the user's cache folder; there each
  machine has its own, because programs are compiled for one processor and homes may be shared.
  """
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return _path(os.environ["JAX_COMPILATION_CACHE_DIR"])
  if VARIABLE in os.environ:
    return _path(os.environ[VARIABLE])
  caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(caches) / "imx2mx_jax" / platform.node()


def keep() -> None:
  """Has JAX keep what it compiles from now on, where the folder can be made."""
  kept = folder()
  if kept is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return  # JAX has read its own variable
  try:
    kept.mkdir(parents=True, exist_ok=True)
  except OSError:
    return
  jax.config.update("jax_compilation_cache_dir", str(kept))


def _path(value: str) -> pathlib.Path | None:
  return pathlib.Path(value).expanduser() if value not in ("", "off") else None
