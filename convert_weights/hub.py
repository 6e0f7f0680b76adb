"""Files from the Hugging Face hub: only those that are needed, and errors that say what to do."""

import pathlib
import re
from collections.abc import Callable, Sequence

import huggingface_hub
from huggingface_hub import errors

from convert_weights.names import ConversionError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def fetch(
  repository: str, revision: str | None, choose: Callable[[Sequence[str]], Sequence[str]]
) -> tuple[pathlib.Path, str]:
  """(the local folder, the commit) of those files of a repository that `choose` picks by name.

  Files go to huggingface_hub's cache, with its progress bars; a second call downloads nothing.
  Raises ConversionError where the repository is gated, missing or out of reach.
  """
  site = f"https://huggingface.co/{repository}"
  try:
    info = huggingface_hub.HfApi().model_info(repository, revision=revision)
    files = choose([file.rfilename for file in info.siblings])
    folder = huggingface_hub.snapshot_download(
      repository, revision=info.sha, allow_patterns=list(files)
    )
  except errors.GatedRepoError as error:
    raise ConversionError(
      f"{repository} is gated: accept its licence at {site}, make a token at "
      "https://huggingface.co/settings/tokens, set HF_TOKEN to it and run the command again"
    ) from error
  except errors.RevisionNotFoundError as error:
    raise ConversionError(
      f"{repository} has no revision {revision!r}; take one from {site}/commits/main"
    ) from error
  except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
    raise ConversionError(
      f"there is no file or folder {repository} here and no such repository on the hub; check the "
      "spelling, or set HF_TOKEN where it is private (`--explain` names the released one)"
    ) from error
  except (errors.HTTPError, OSError) as error:
    reason = str(error).partition("\n")[0]
    raise ConversionError(
      f"cannot download {repository} ({reason}); check the connection and HF_HUB_OFFLINE, or give "
      "a local folder with --src"
    ) from error
  return pathlib.Path(folder), info.sha
