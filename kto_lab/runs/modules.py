"""Where modules are that are no installed package's, and what is in them: found by reading files, not by importing."""

import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kto_lab.runs.definitions import Definitions, read_definitions

PACKAGE = __name__.partition(".")[0]
INSTALLED = tuple(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))

NOTHING = Definitions(())


@dataclass(frozen=True)
class Place:
    """Where a module is.

    Attributes:
        name: dotted.
        file: its source; None for a package without an `__init__.py`.
        folders: of a package, where its modules are.
    """

    name: str
    file: Path | None
    folders: tuple[Path, ...] = ()


class Modules:
    """Finds modules, and remembers what it has read."""

    def __init__(self, path: Sequence[Path] | None = None) -> None:
        """`path`: folders to look for modules in; None for those that Python looks in."""
        self._path = path
        self._places: dict[str, Place | None] = {}
        self._installed: set[str] = set(sys.stdlib_module_names)
        self._read: dict[Path, tuple[tuple[int, int], Definitions]] = {}

    def look_again(self) -> None:
        """Forget where modules are: they come and go while a process lives."""
        self._places.clear()

    def place(self, name: str) -> Place | None:
        """Where a module is; None where there is none, or it is an installed package's."""
        if name not in self._places:
            parent, _, last = name.rpartition(".")
            if not parent:
                self._places[name] = self._top(name)
            else:
                package = self.place(parent)
                self._places[name] = None if package is None else _within(package.folders, name, last)
        return self._places[name]

    def read(self, name: str) -> Definitions:
        """The statements of a module; none where it is not found or has no file.

        A module that this process has imported is what it was when it was first read: what is changed afterwards is
        not what runs here.

        Raises:
            LabError: it is no Python.
        """
        place = self.place(name)
        if place is None or place.file is None:
            return NOTHING
        known = self._read.get(place.file)
        if known is not None and getattr(sys.modules.get(name), "__file__", None) == str(place.file):
            return known[1]
        about = place.file.stat()
        when = (about.st_mtime_ns, about.st_size)
        if known is None or known[0] != when:
            known = self._read[place.file] = (when, read_definitions(place.file))
        return known[1]

    def split(self, name: str) -> tuple[str, tuple[str, ...]]:
        """A dotted name as the longest module that it begins with, and what follows; "" where there is none."""
        module, parts = name, tuple[str, ...]()
        while module and self.place(module) is None:
            module, _, last = module.rpartition(".")
            parts = (last, *parts)
        return module, parts

    def defining(self, text: str) -> str | None:
        """The module that a dotted text names something in; None for any other text."""
        module, parts = self.split(text)
        return module if parts and {parts[0], "*"} & self.read(module).binding.keys() else None

    def _top(self, name: str) -> Place | None:
        """Where a module is that is in no package."""
        if self._path is not None:
            return _within(self._path, name, name)
        if name in self._installed:
            return None
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None
        if spec is None:
            return None
        folders = tuple(Path(folder).resolve() for folder in spec.submodule_search_locations or ())
        file = (
            Path(spec.origin).resolve() if spec.has_location and spec.origin and spec.origin.endswith(".py") else None
        )
        where = [*folders, *([file] if file else [])]
        if not where or (name != PACKAGE and any(_is_installed(one) for one in where)):
            self._installed.add(name)
            return None
        return Place(name, file, folders)


def _within(folders: Iterable[Path], name: str, last: str) -> Place | None:
    """A module that is in one of some folders."""
    bare = []
    for folder in folders:
        if (inside := folder / last / "__init__.py").is_file():
            return Place(name, inside, (inside.parent,))
        if (file := folder / f"{last}.py").is_file():
            return Place(name, file)
        if (folder / last).is_dir():
            bare.append(folder / last)
    return Place(name, None, tuple(bare)) if bare else None


def _is_installed(path: Path) -> bool:
    """Whether a file belongs to an installed package or to Python."""
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or any(map(path.is_relative_to, INSTALLED))
