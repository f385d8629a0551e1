"""The code that a run depends on: the modules that it imports, as far as they are not of an installed package.

Found by reading files, so nothing is imported for it. From some modules on, every import is followed, those inside
functions too, to the modules of this package and of the user; what is under `if TYPE_CHECKING:` never runs and is not
followed. A module stands for what it does (see `source.canonical`), not for how it is written. Files that a package
ships and names in its code, such as `data` beside it, count by their content.
"""

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from kto_lab.errors import LabError
from kto_lab.hashing import sha256_file
from kto_lab.runs.source import canonical, for_types_only

PACKAGE = __name__.partition(".")[0]
DIGITS = 12
# Of what a package ships, no code and no data.
UNREAD = {".md", ".pyc"}
LONGEST_NAME = 100  # of a file or folder that code names
INSTALLED = tuple(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
IMPORTERS = ("import_module", "__import__")


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


@dataclass(frozen=True)
class Read:
    """What is read of a module.

    Attributes:
        does: hash of what it does.
        imports: dotted names that it imports, each with how many leading dots and how many of its parts may be no
            module but a name in one.
        names: that it binds.
        texts: in it that may name files.
    """

    does: str
    imports: tuple[tuple[int, str, bool], ...]
    names: frozenset[str]
    texts: tuple[str, ...]


class Code:
    """Finds modules, and remembers what it has read."""

    def __init__(self, path: Sequence[Path] | None = None) -> None:
        """`path`: folders to look for modules in; None for those that Python looks in."""
        self._path = path
        self._places: dict[str, Place | None] = {}
        self._installed: set[str] = set(sys.stdlib_module_names)
        self._read: dict[Path, tuple[tuple[int, int], Read]] = {}
        self._hashes: dict[Path, tuple[tuple[int, int], str]] = {}

    def closure(self, modules: Iterable[str]) -> dict[str, str]:
        """What a run depends on that starts with these modules.

        Returns:
            Module, or package and file in it, to a hash of what it does or holds; by name.
        """
        # Modules come and go while a process lives.
        self._places.clear()
        found: dict[str, str] = {}
        left = sorted(modules, reverse=True)
        seen: set[str] = set()
        while left:
            name = left.pop()
            if name in seen:
                continue
            seen.add(name)
            # To import a module is to import the packages that it is in.
            left += [name.rpartition(".")[0]] if "." in name else []
            place = self.place(name)
            if place is None or place.file is None:
                continue
            read = self.read(place)
            found[name] = read.does
            left += self._imported(place, read)
            for file, shipped in self._shipped(place, read):
                if file.suffix == ".py":
                    left.append(shipped.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
                else:
                    found[shipped] = self._hash(file)
        return dict(sorted(found.items()))

    def module_of(self, text: str) -> str | None:
        """The module that a dotted text names something in, such as a class or a function; None for any other text."""
        self._places.clear()
        module, _, name = text.rpartition(".")
        while module:
            if (place := self.place(module)) is not None:
                named = place.file is not None and name in self.read(place).names
                return module if named else None
            module, _, name = module.rpartition(".")
        return None

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

    def read(self, place: Place) -> Read:
        """What a module does and imports.

        A module that this process has imported is what it was when it was first read: what is changed afterwards is
        not what runs here.

        Raises:
            LabError: it is no Python.
        """
        assert place.file is not None
        known = self._read.get(place.file)
        if known is not None and getattr(sys.modules.get(place.name), "__file__", None) == str(place.file):
            return known[1]
        about = place.file.stat()
        when = (about.st_mtime_ns, about.st_size)
        if known is None or known[0] != when:
            known = self._read[place.file] = (when, _read(place.file))
        return known[1]

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

    def _imported(self, place: Place, read: Read) -> Iterator[str]:
        """The modules that a module imports."""
        within = place.name.split(".") if place.folders else place.name.split(".")[:-1]
        for dots, name, may_be_no_module in read.imports:
            base = within[: len(within) - dots + 1] if dots else []
            full = ".".join([*base, name] if name else base)
            if self.place(full) is not None:
                yield full
            elif may_be_no_module and (parent := full.rpartition(".")[0]) and self.place(parent) is not None:
                yield parent

    def _shipped(self, place: Place, read: Read) -> Iterator[tuple[Path, str]]:
        """The files that a module names in its code and that are beside it, or in a folder that it names there.

        Each with its package and its place in it.
        """
        assert place.file is not None
        folder = place.file.parent
        in_package = (folder / "__init__.py").is_file()
        package = place.name if place.folders else place.name.rpartition(".")[0]
        for text in read.texts:
            named = folder / text
            # A module that is in no package may lie anywhere, and beside it anything.
            files = sorted(named.rglob("*")) if in_package and named.is_dir() else [named]
            for file in files:
                if file.is_file() and file.suffix not in UNREAD:
                    yield file, f"{package}/{file.relative_to(folder).as_posix()}"

    def _hash(self, file: Path) -> str:
        about = file.stat()
        when = (about.st_mtime_ns, about.st_size)
        known = self._hashes.get(file)
        if known is None or known[0] != when:
            known = self._hashes[file] = (when, sha256_file(file)[:DIGITS])
        return known[1]


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


def _read(file: Path) -> Read:
    """Read a file of Python.

    Raises:
        LabError: it is none.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise LabError(f"{file} cannot be read as Python: {error}. A run would import it; mend it.") from error
    imports, texts = [], []
    for node in _running(tree):
        match node:
            case ast.Import():
                imports += [(0, alias.name, False) for alias in node.names]
            case ast.ImportFrom():
                base = f"{node.module}." if node.module else ""
                imports += [(node.level, f"{base}{alias.name}", True) for alias in node.names]
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(text)), *_]):
                imports += [(0, text, False)] if name in IMPORTERS else []
            case ast.Constant(value=str(text)) if _may_name_a_file(text):
                texts.append(text)
    does = hashlib.sha256(canonical(tree).encode()).hexdigest()[:DIGITS]
    return Read(does, tuple(dict.fromkeys(imports)), frozenset(_bound(tree.body)), tuple(dict.fromkeys(texts)))


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of a file, without what is for types alone."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        left += node.orelse if isinstance(node, ast.If) and for_types_only(node) else ast.iter_child_nodes(node)


def _bound(body: Iterable[ast.stmt]) -> Iterator[str]:
    """The names that a module binds at its top."""
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
            case _:
                yield from (inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))


def _may_name_a_file(text: str) -> bool:
    """Whether a text is the name of a file or folder beside a module."""
    if not text or len(text) > LONGEST_NAME or "\n" in text or "\0" in text:
        return False
    path = PurePath(text)
    return not path.is_absolute() and bool(path.parts) and ".." not in path.parts
