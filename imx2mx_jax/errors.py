"""What a user can mend: one sentence with the file, the value and the way out."""


class UserError(Exception):
  """A mistake in what the user gave; doors print its message, no traceback, and exit with 1."""


class SceneError(UserError):
  """Photographs or cameras that cannot be used."""


class WeightsError(UserError):
  """A folder of weights that is missing, of another kind or of another shape."""


class ConfigError(UserError):
  """A setting that does not exist or does not make sense."""


class RunFolderError(UserError):
  """A run folder that cannot be written or resumed."""


class ClaimError(RunFolderError):
  """A folder in which another process works."""


class RemoteError(UserError):
  """A folder elsewhere that cannot be reached."""


class JobsError(UserError):
  """A list of edits that cannot be worked through."""


class DivergedError(UserError):
  """An edit whose gradients are no longer finite."""


class ReportError(UserError):
  """A report that cannot be made or written."""
