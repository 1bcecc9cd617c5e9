"""Functions of the user's that are asked about exits: by port, by guest physical address, by reason."""

from __future__ import annotations

from collections.abc import Callable

from vmthaw import _core
from vmthaw._core import Exit, ExitAction, ExitActionKind
from vmthaw.errors import VmthawValueError

Answer = ExitAction | ExitActionKind | bytes | None
ExitFunction = Callable[[Exit], Answer]
Place = tuple[str, int, int, ExitFunction]


class ExitFunctions:
    """The decorators by which functions are registered, for whoever runs vCPUs."""

    _places: list[Place]

    def _check_may_register(self) -> None:
        """Raises StateError when it is too late."""
        raise NotImplementedError

    def on_port(self, first: int, last: int | None = None) -> Callable[[ExitFunction], ExitFunction]:
        """Registers the decorated function for accesses that begin at the ports `first` to `last` (default: `first`).

        The start of a run raises VmthawValueError for ranges that overlap. StateError while a run has begun; so the
        others.
        """
        return self._register("port", first, first if last is None else last)

    def on_mmio(self, first: int, last: int) -> Callable[[ExitFunction], ExitFunction]:
        """Registers the decorated function for accesses that begin at guest physical addresses `first` to `last`."""
        return self._register("mmio", first, last)

    def on_reason(self, reason: int | str) -> Callable[[ExitFunction], ExitFunction]:
        """Registers the decorated function for an exit reason, by number or name, that no port or address takes."""
        number = reason if isinstance(reason, int) else _reason_number(reason)
        return self._register("reason", number, number)

    def _register(self, kind: str, first: int, last: int) -> Callable[[ExitFunction], ExitFunction]:
        self._check_may_register()
        if not 0 <= first <= last:
            raise VmthawValueError(f"{kind} {first:#x} to {last:#x}: a range ends at or behind its beginning, from 0")

        def add(function: ExitFunction) -> ExitFunction:
            self._places.append((kind, first, last, function))
            return function

        return add


def _reason_number(name: str) -> int:
    for number in range(64):
        if _core.exit_reason_name(number) == name:
            return number
    raise VmthawValueError(f"no exit reason is called {name!r}; the names are KVM_EXIT_* without that")
