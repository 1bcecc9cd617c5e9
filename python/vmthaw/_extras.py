"""Optional dependencies: imported when used, and named with the line that installs them when they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from vmthaw.errors import MissingExtraError


def need(module: str, extra: str) -> ModuleType:
    """The module, imported. Raises MissingExtraError, which says how to install the extra it belongs to."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.partition(".")[0] != error.name.partition(".")[0]:
            raise  # it is there, and something that it stands on is not
        raise MissingExtraError(f"{module} is not installed; install it with: pip install 'vmthaw[{extra}]'") from error
