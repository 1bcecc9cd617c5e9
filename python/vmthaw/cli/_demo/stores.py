"""The demo's memory, stored as each kind of source wants it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from vmthaw.cli._demo.guest import Progress
from vmthaw.cli._errors import CliError, say_error
from vmthaw.source import FileSource, PageExporter, PageSource, PythonSource, compress_file, open_source
from vmthaw.source._address import STORES
from vmthaw.source._object_store._store import said

if TYPE_CHECKING:
    from collections.abc import Mapping

    Builder = Callable[["Building"], str | Callable[[], PageSource]]

UPLOADS = tuple(scheme for scheme in STORES if not scheme.startswith("http"))


@dataclass
class Building:
    """`memory` is what is to be stored below `place`, which is empty; `stack` ends what serves it."""

    memory: Path
    place: Path
    stack: contextlib.ExitStack
    progress: Progress

    def path(self, name: str) -> Path:
        """Of something new."""
        return self.place / name

    def at(self, name: str) -> str:
        """The same within an address."""
        return quote(str(self.place / name))

    def done(self, done: int, total: int) -> None:
        """For what counts bytes."""
        self.progress(done / total)


@contextlib.contextmanager
def stored(kind: str, memory: Path, place: Path, progress: Progress) -> Iterator[Callable[[], PageSource]]:
    """Stores a memory for a source of `kind` (or in the object store of that URL); gives what opens one. Servers that
    it takes end with the block. Raises CliError, OSError."""
    place.mkdir()
    with contextlib.ExitStack() as stack:
        building = Building(memory, place, stack, progress)
        made = BUILDERS[kind](building) if kind in BUILDERS else _in_store(building, kind)
        progress(1.0)
        yield (lambda: open_source(made)) if isinstance(made, str) else made


def _as_file(it: Building) -> str:
    return f"file:{quote(str(it.memory))}?format=raw"


def _as_diffs(it: Building) -> str:
    from vmthaw.cli._demo.layers import write_diffs

    write_diffs(it.memory, it.path("base"), [it.path("1"), it.path("2")])
    return f"file:{it.at('base')}?format=raw,diff:{it.at('1')},diff:{it.at('2')}"


def _as_layers(it: Building) -> str:
    from vmthaw.cli._demo.layers import write_layers

    write_layers(it.memory, it.path("header"), it.place)
    return f"layers:{it.at('header')}"


def _compressed(it: Building) -> str:
    with FileSource(it.memory) as source:
        compress_file(source, it.path("memory.zst"), progress=it.done)
    return f"zstd:{it.at('memory.zst')}"


def _packed(it: Building) -> str:
    from vmthaw._snapshot_pack import pack

    with FileSource(it.memory) as source:
        pack(source, it.path("store"), "demo", progress=it.done)
    return f"packed:{it.at('store')}#demo"


def _behind_socket(it: Building) -> str:
    source = it.stack.enter_context(FileSource(it.memory))
    exporter = it.stack.enter_context(PageExporter(source, it.path("pages")))
    return f"unix:{it.at('pages')}?size={exporter.source.size}"


def _behind_http(it: Building) -> str:
    from vmthaw._extras import need
    from vmthaw.cli._demo.object_server import serving_object

    need("obstore.store", "s3")
    return it.stack.enter_context(serving_object(it.memory))


def _cached(it: Building) -> str:
    return f"{_behind_socket(it)},cache:{it.at('cache')}?identity=demo&chunk=64KiB"


def _in_python(it: Building) -> Callable[[], PageSource]:
    file = os.open(it.memory, os.O_RDONLY | os.O_CLOEXEC)
    it.stack.callback(os.close, file)
    with FileSource(it.memory) as source:
        size, extents = source.size, source.extents().tolist()
    return lambda: PythonSource(lambda offset, count: os.pread(file, count, offset), size, extents, 2, "demo")


BUILDERS: Mapping[str, Builder] = {
    "file": _as_file,
    "diff": _as_diffs,
    "layers": _as_layers,
    "compressed": _compressed,
    "packed": _packed,
    "socket": _behind_socket,
    "http": _behind_http,
    "python": _in_python,
    "cached": _cached,
}


def is_store(text: str) -> bool:
    """True for the URL of an object that can be written."""
    parts = urlsplit(text)
    return parts.scheme in UPLOADS and bool(parts.netloc) and bool(parts.path.strip("/"))


def _remove(obstore: Any, store: Any, key: str, url: str) -> None:
    try:
        obstore.delete(store, key)
    except FileNotFoundError:
        pass  # it never got there
    except Exception as error:  # noqa: BLE001 - the demo is over; what remains is to be said
        say_error(f"vmthaw demo: {url} could not be removed: {said(error)}")


def _in_store(it: Building, url: str) -> str:
    """Puts it there, where nothing is, and takes it away at the end."""
    from vmthaw._extras import need
    from vmthaw.source._object_store._store import store_of

    obstore = need("obstore", "s3")
    store, key = store_of(url, 30.0, None)
    try:
        obstore.head(store, key)
    except FileNotFoundError:
        pass
    except Exception as error:
        raise CliError(f"{url}: the store cannot be asked: {said(error)}") from error
    else:
        raise CliError(f"{url} exists; the demo overwrites nothing: give the URL of a new object")
    it.stack.callback(_remove, obstore, store, key, url)
    try:
        obstore.put(store, key, it.memory)
    except Exception as error:
        raise CliError(f"{url}: the memory cannot be put there: {said(error)}") from error
    return url
