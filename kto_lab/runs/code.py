"""The code that a run depends on: what its own names and those of its settings lead to, installed packages apart.

Found by reading files, so nothing is imported for it. From some names on, every name is followed that the definition of
one uses, and every import, those inside functions too; what is under `if TYPE_CHECKING:` never runs and is not
followed. A module stands for its statements that are reached so, and for those that do something when it is imported
(see `effects`); these count in every module that is imported on the way. Each stands for what it does (see
`source.canonical`), not for how it is written. A class counts whole, and so does a module that is used as a value or
whose names are looked up in a way that is not seen here. Files that a package ships and names in such code, such as
`data` beside it, count by their content.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kto_lab.hashing import sha256_as_it_is
from kto_lab.runs.definitions import Import, Statement
from kto_lab.runs.effects import DEEPEST, Effects, Origin
from kto_lab.runs.modules import Modules, Place

DIGITS = 12
# Of what a package ships, no code and no data.
UNREAD = {".md", ".pyc"}
# Every module has these.
OF_ANY_MODULE = {"__doc__", "__file__", "__name__", "__package__", "__path__", "__spec__"}
# These look modules up by names that the settings hold, which are followed as such, look at their files alone, or look
# up installed packages.
LOOK_UP = {
    "kto_lab.evaluation.measuring",
    "kto_lab.memory",
    "kto_lab.models.attention",
    "kto_lab.runs.modules",
    "kto_lab.training.hardware",
    "kto_lab.values",
}
# In place of a name of a module.
ALL = ("*",)


class Code:
    """Finds what a run depends on, and remembers what it has read."""

    def __init__(self, path: Sequence[Path] | None = None) -> None:
        """`path`: folders to look for modules in; None for those that Python looks in."""
        self._modules = Modules(path)

    def closure(self, names: Iterable[str]) -> dict[str, str]:
        """What a run depends on that starts with these names.

        Args:
            names: dotted, of modules and of what they define.

        Returns:
            Module, or package and file in it, to a hash of what is reached of it or what it holds; by name.
        """
        self._modules.look_again()
        reached = _Reached(self._modules)
        for name in sorted(names):
            reached.follow(name)
        found = {
            module: hashlib.sha256("\n".join(texts).encode()).hexdigest()[:DIGITS]
            for module, texts in reached.texts().items()
        }
        held = {name: sha256_as_it_is(file)[:DIGITS] for name, file in reached.files.items()}
        return dict(sorted((found | held).items()))

    def module_of(self, text: str) -> str | None:
        """The module that a dotted text names something in, such as a class or a function; None for any other text."""
        self._modules.look_again()
        return self._modules.defining(text)


class _Reached:
    """What is reached of modules.

    Attributes:
        files: package and file in it to where the file is.
    """

    def __init__(self, modules: Modules) -> None:
        self._modules = modules
        self._effects = Effects(self._origin)
        # Module to the places of its statements that count.
        self._counted: dict[str, set[int]] = {}
        self._whole: set[str] = set()
        self._everything = False
        self._seen: set[tuple[str, tuple[str, ...]]] = set()
        # What is left to do: a name in a module to follow; ALL for all of its names, none for the module as a value.
        self._left: list[tuple[str, tuple[str, ...]]] = []
        self.files: dict[str, Path] = {}

    def texts(self) -> dict[str, list[str]]:
        """Module to what is reached of it, in its order; a module of which nothing counts is imported all the same."""
        return {
            module: [self._modules.read(module).statements[place].text for place in sorted(places)]
            for module, places in self._counted.items()
        }

    def follow(self, name: str) -> None:
        """Follow a dotted name, of a module or of what one defines, and all that it leads to."""
        self._left.append(self._modules.split(name))
        while self._left:
            one = self._left.pop()
            if one not in self._seen:
                self._seen.add(one)
                self._reach(*one)

    def _reach(self, module: str, parts: tuple[str, ...]) -> None:
        """Count what a name of a module stands for, with the attributes that are looked up on it."""
        if self._modules.place(module) is None:
            return
        self._import(module)
        if not parts or parts == ALL:
            for index in range(len(self._modules.read(module).statements)):
                self._count(module, index)
        if not parts:
            # The modules in it are its attributes.
            self._whole.add(module)
            self._left += [(name, ()) for name in self._counted if name.startswith(f"{module}.")]
        if not parts or parts == ALL:
            return
        name, *attributes = parts
        places = self._modules.read(module).binding.get(name, ())
        for place in places:
            self._count(module, place, tuple(attributes))
        inner = f"{module}.{name}"
        if self._modules.place(inner) is not None:
            self._left.append((inner, tuple(attributes)))
        elif not places and name not in OF_ANY_MODULE:
            # It is made in a way that is not seen here.
            self._left.append((module, ALL))

    def _import(self, module: str) -> None:
        """Count what is done when a module is imported."""
        if module in self._counted or (place := self._modules.place(module)) is None:
            return
        # To import a module is to import the packages that it is in.
        if package := module.rpartition(".")[0]:
            self._import(package)
        if place.file is None:
            return
        self._counted[module] = set()
        for index, statement in enumerate(self._modules.read(module).statements):
            if (imported := statement.imported) is not None:
                if not self._is_followed(module, imported):
                    self._count(module, index)
                for name in self._targets(module, imported):
                    self._import(name)
                if imported.name == "*":
                    self._left.append((self._target(module, imported), ALL))
            elif not self._effects.only_binds(module, statement.node):
                self._count(module, index)
        packages = (module.rsplit(".", depth)[0] for depth in range(module.count(".") + 1))
        if self._everything or self._whole.intersection(packages):
            self._left.append((module, ()))

    def _count(self, module: str, index: int, attributes: tuple[str, ...] | None = None) -> None:
        """Count a statement, and follow what it uses.

        Args:
            module: that it is in.
            index: its place there.
            attributes: looked up on the name that it binds; None where it is not the name that is wanted.
        """
        statement = self._modules.read(module).statements[index]
        if statement.imported is not None:
            self._follow_import(module, statement.imported, attributes or ())
        if index in self._counted[module]:
            return
        self._counted[module].add(index)
        if statement.sees_everything and module not in LOOK_UP and not self._everything:
            self._everything = True
            self._left += [(name, ()) for name in self._counted]
        if statement.imported is not None:
            return
        self._left += [(module, chain) for chain in statement.uses if self._is_known(module, chain[0])]
        # What an import within a statement binds is not followed by its uses.
        for inner in statement.imports:
            self._follow_import(module, inner, ())
        self._left += [(name, ()) for name in statement.modules]
        self._left += [self._modules.split(text) for text in statement.dotted if self._modules.defining(text)]
        if statement.sees_module:
            self._left.append((module, ALL))
        self._ship(module, statement)

    def _is_known(self, module: str, name: str) -> bool:
        """Whether a name is the module's, and no builtin one; a package has the modules in it by their names."""
        place = self._modules.place(f"{module}.{name}")
        return place is not None or name in self._modules.read(module).binding

    def _follow_import(self, module: str, imported: Import, attributes: tuple[str, ...]) -> None:
        """Follow a name that an import binds, with the attributes that are looked up on it."""
        for name in self._targets(module, imported):
            self._import(name)
        if imported.name is None and imported.alias is None and not attributes:
            # Its packages are had by it, too.
            parts = imported.module.split(".")
            self._left += [(".".join(parts[: depth + 1]), ()) for depth in range(len(parts))]
        else:
            self._left.append(self._leads_to(module, imported, attributes))

    def _leads_to(self, module: str, imported: Import, attributes: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """The module and the name in it that a name leads to that an import binds."""
        target = self._target(module, imported)
        if imported.name is not None:
            return target, (imported.name, *attributes)
        return (target if imported.alias else target.partition(".")[0]), attributes

    def _targets(self, module: str, imported: Import) -> Iterator[str]:
        """The modules that an import may import."""
        target = self._target(module, imported)
        yield target
        if imported.name is not None:
            yield f"{target}.{imported.name}"

    def _target(self, module: str, imported: Import) -> str:
        """The module that an import names, from the top."""
        if not imported.dots:
            return imported.module
        place = self._modules.place(module)
        within = module.split(".") if place is not None and place.folders else module.split(".")[:-1]
        base = within[: len(within) - imported.dots + 1]
        return ".".join([*base, imported.module] if imported.module else base)

    def _is_followed(self, module: str, imported: Import) -> bool:
        """Whether what is imported is no installed package's."""
        return self._modules.place(self._target(module, imported)) is not None

    def _origin(self, module: str, chain: tuple[str, ...]) -> Origin | str | None:
        """Where a name of a module comes from; see `effects.Resolve`."""
        for hop in range(DEEPEST):
            read = self._modules.read(module)
            name, *attributes = chain
            places = read.binding.get(name, ())
            if not places:
                return None if hop or "*" in read.binding else ".".join(("builtins", *chain))
            statement = read.statements[places[0]]
            if len(places) > 1:
                return None
            if (imported := statement.imported) is None:
                return None if attributes else Origin(module, statement)
            followed = self._is_followed(module, imported)
            module, chain = self._leads_to(module, imported, tuple(attributes))
            if not followed:
                return ".".join((module, *chain))
            while chain and self._modules.place(f"{module}.{chain[0]}") is not None:
                if chain[0] in self._modules.read(module).binding:
                    return None
                module, chain = f"{module}.{chain[0]}", chain[1:]
            if not chain:
                return None
        return None

    def _ship(self, module: str, statement: Statement) -> None:
        """Take in the files that a statement names: beside its module, or in a folder there that it names."""
        place = self._modules.place(module)
        assert place is not None and place.file is not None
        package = module if place.folders else module.rpartition(".")[0]
        for file, within in _shipped(place, statement.texts):
            if file.suffix == ".py":
                name = f"{package}/{within}".removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                self._left.append((name, ALL))
            else:
                self.files[f"{package}/{within}"] = file


def _shipped(place: Place, texts: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """The files that texts in a module name, each with its place in the module's folder."""
    assert place.file is not None
    folder = place.file.parent
    in_package = (folder / "__init__.py").is_file()
    for text in texts:
        named = folder / text
        # A module that is in no package may lie anywhere, and beside it anything. A package is code, which is imported.
        ships = in_package and named.is_dir() and not (named / "__init__.py").is_file()
        files = sorted(named.rglob("*")) if ships else [named]
        for file in files:
            if file.is_file() and file.suffix not in UNREAD:
                yield file, file.relative_to(folder).as_posix()
