"""Every error a user can cause. One tree, so that the command line catches one type.

MirasError
  SpaceError     a YAML space that does not say what it should (file:line:column)
  DesignError    a combination of choices that is no model, or an unknown name
  MatchError     a size target that no candidate reaches
  TaskError      data that cannot be read, or is too small
  RunError       a run folder that exists, is locked, is missing or cannot be written
  ExportError    a run that has nothing to export
  MissingExtra   an optional dependency that is not installed
"""


class MirasError(Exception):
    """A problem the user can mend: what is wrong, where, and the way out.

    Args:
        message: what is wrong, naming the value.
        where: `file:line:column`, a path, or a key; printed first.
        hint: the remedy; printed last.
    """

    exit_code = 2

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message, self.where, self.hint = message, where, hint
        super().__init__(message)

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        return f"{head}\n  {self.hint}" if self.hint else head


class SpaceError(MirasError):
    """A search space that cannot be read or does not say what it should."""


class DesignError(MirasError, ValueError):
    """Choices that do not go together, or a name that is not known."""


class MatchError(MirasError, ValueError):
    """A size target that no candidate reaches within its tolerance."""


class TaskError(MirasError):
    """Data that cannot be read, or is too small for what is asked of it."""


class RunError(MirasError):
    """A run folder that exists already, is in use, is missing, or cannot be written."""


class ExportError(MirasError):
    """A run or trial that cannot be exported."""


class MissingExtra(MirasError):
    """An optional dependency that is not installed.

    Args:
        package: the import that failed.
        extra: the extra of this package that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed", hint=f"pip install 'miras-search[{extra}]'")
