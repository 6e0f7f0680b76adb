"""An upstream config.json: the fields that we understand, and a complaint about others."""

from collections.abc import Mapping, Sequence
from typing import Any

from imx2mx_jax.errors import UserError


class UnsupportedConfig(UserError):
  """A config.json that asks for something that our networks do not compute."""

  def __init__(self, field: str, value: Any, wanted: str):
    super().__init__(
      f"config.json: {field} = {value!r} is not supported, only {wanted} is; "
      "choose a model of the Stable Diffusion 1.x or 2.x family"
    )


def read(
  config: Mapping[str, Any],
  *,
  fields: Mapping[str, Any],
  fixed: Mapping[str, Any],
  idle: Sequence[str] = (),
) -> dict[str, Any]:
  """The fields of a config, the absent ones with the library's defaults.

  fields: {field: the library's default}. fixed: {field: the one value that our network computes}.
  idle: fields that change nothing for us. Every other field must be off (null or false), unless
  its name begins with an underscore. Raises UnsupportedConfig.
  """
  for field, value in config.items():
    if field in fields or field in idle or field.startswith("_"):
      continue
    if field in fixed and value != fixed[field]:
      raise UnsupportedConfig(field, value, repr(fixed[field]))
    if field not in fixed and value not in (None, False):
      raise UnsupportedConfig(field, value, "null")
  return {field: config.get(field, default) for field, default in fields.items()}


def for_each_level(value: Any, levels: int) -> tuple:
  """A field that is given once for all levels, or once for each."""
  return tuple(value) if isinstance(value, list | tuple) else (value,) * levels


def for_all_levels(field: str, value: Any) -> Any:
  """A field that may differ between the levels and does not. Raises UnsupportedConfig."""
  values = set(for_each_level(value, 1))
  if len(values) != 1:
    raise UnsupportedConfig(field, value, "one value for all levels")
  return values.pop()


def choices(field: str, values: Sequence[str], meaning: Mapping[str, Any]) -> tuple:
  """What each of the names in a field means. Raises UnsupportedConfig for a name without one."""
  for value in values:
    if value not in meaning:
      raise UnsupportedConfig(field, value, " or ".join(map(repr, meaning)))
  return tuple(meaning[value] for value in values)


def spelt(values: Sequence[Any], meaning: Mapping[str, Any]) -> list[str]:
  """The names that mean these: the inverse of `choices`."""
  named = {value: name for name, value in meaning.items()}
  return [named[value] for value in values]
