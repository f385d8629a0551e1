"""The top-level statements of a Python file, each with what it binds and what it uses."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from kto_lab.errors import LabError
from kto_lab.runs.source import dotted, for_types_only, written

LONGEST_NAME = 100  # of a file or folder that code names
IMPORTERS = ("import_module", "__import__")
# A function that calls one of these may use any name of its module.
SEE_A_MODULE = {
    f"{before}{name}" for before in ("", "builtins.") for name in ("globals", "locals", "vars", "dir", "eval", "exec")
}
# What leads to modules and classes that the code does not name.
SEE_EVERYTHING = {
    "sys.modules",
    "__globals__",
    "__subclasses__",
    "f_globals",
    "get_type_hints",
    "getmodule",
    "iter_modules",
    "resolve_name",
    "run_module",
    "walk_packages",
}


@dataclass(frozen=True)
class Import:
    """One name of an import statement.

    Attributes:
        dots: how many lead it.
        module: dotted; "" for dots alone.
        name: what is taken from the module, "*" for all; None where the module itself is bound.
        alias: what it is called here; None for its own name.
    """

    dots: int
    module: str
    name: str | None
    alias: str | None

    @property
    def bound(self) -> str:
        """The name that it binds."""
        return self.alias or self.name or self.module.partition(".")[0]


@dataclass(frozen=True)
class Statement:
    """A statement of a module.

    Attributes:
        node: as parsed; of an import with several names each has a statement of its own.
        text: what it does; see `source.canonical`.
        uses: names of its module or builtin ones, each with the attributes that are looked up on it.
        binds: names that it binds in its module.
        imports: in it, those in its functions too.
        modules: that it imports by their name in a text.
        dotted: texts in it that may name what a module defines.
        texts: in it that may name files.
        sees_module: whether it may use any name of its module.
        sees_everything: whether it may use modules and classes that it does not name.
    """

    node: ast.stmt
    text: str
    uses: frozenset[tuple[str, ...]]
    binds: frozenset[str]
    imports: tuple[Import, ...]
    modules: tuple[str, ...]
    dotted: tuple[str, ...]
    texts: tuple[str, ...]
    sees_module: bool
    sees_everything: bool

    @property
    def imported(self) -> Import | None:
        """What it imports, where it is an import statement."""
        return self.imports[0] if isinstance(self.node, ast.Import | ast.ImportFrom) else None


@dataclass(frozen=True)
class Definitions:
    """A file's statements, in its order."""

    statements: tuple[Statement, ...]

    @cached_property
    def binding(self) -> Mapping[str, tuple[int, ...]]:
        """Name to the places of the statements that bind it."""
        found: dict[str, tuple[int, ...]] = {}
        for place, statement in enumerate(self.statements):
            for name in statement.binds:
                found[name] = (*found.get(name, ()), place)
        return found


def read_definitions(file: Path) -> Definitions:
    """Read a file of Python; what is under `if TYPE_CHECKING:` is left out, and so is what does nothing.

    Raises:
        LabError: it is none.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise LabError(f"{file} cannot be read as Python: {error}. A run would import it; mend it.") from error
    return Definitions(tuple(statement for node in _single(tree.body) if (statement := _statement(node)).text != "[]"))


def _single(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run, an import of several names as one for each."""
    for node in body:
        if isinstance(node, ast.If) and for_types_only(node):
            yield from _single(node.orelse)
        elif isinstance(node, ast.Import):
            yield from (ast.Import(names=[alias]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (ast.ImportFrom(module=node.module, names=[alias], level=node.level) for alias in node.names)
        else:
            yield node


def _statement(node: ast.stmt) -> Statement:
    text, uses = written(node)
    imports: list[Import] = []
    modules: list[str] = []
    constants: list[str] = []
    annotations: list[ast.expr] = []
    names: set[str] = set()
    attributes: set[str] = set()
    lookups = 0
    for inner in _running(node):
        match inner:
            case ast.Import():
                imports += [Import(0, alias.name, None, alias.asname) for alias in inner.names]
            case ast.ImportFrom():
                imports += [Import(inner.level, inner.module or "", alias.name, alias.asname) for alias in inner.names]
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(named)), *_]):
                modules += [named] if name in IMPORTERS and not named.startswith(".") else []
            case ast.Constant(value=str(constant)):
                constants.append(constant)
            case ast.Name(id=name) | ast.Attribute(attr=name):
                names.add(".".join(dotted(inner)))
                attributes.add(name)
                lookups += name in IMPORTERS
            case ast.arg(annotation=ast.expr() as one) | ast.AnnAssign(annotation=one):
                annotations.append(one)
            case ast.FunctionDef(returns=ast.expr() as one) | ast.AsyncFunctionDef(returns=ast.expr() as one):
                annotations.append(one)
    return Statement(
        node=node,
        text=text,
        uses=uses.union(_quoted(annotations)),
        binds=frozenset(_bound(node)),
        imports=tuple(dict.fromkeys(imports)),
        modules=tuple(dict.fromkeys(modules)),
        dotted=tuple(dict.fromkeys(filter(is_dotted, constants))),
        texts=tuple(dict.fromkeys(filter(_may_name_a_file, constants))),
        sees_module=not names.isdisjoint(SEE_A_MODULE),
        sees_everything=lookups > len(modules)
        or not SEE_EVERYTHING.isdisjoint(names | attributes)
        or any(map(_hides_a_lookup, imports)),
    )


def _hides_a_lookup(imported: Import) -> bool:
    """Whether an import gives another name to what looks modules up, or brings all of them."""
    if imported.name is None:
        return imported.module in ("builtins", "sys") and imported.alias is not None
    if imported.module == "builtins":
        return True
    hidden = {"sys": {"modules", "*"}, "importlib": set(IMPORTERS) if imported.alias else set()}
    return imported.name in hidden.get(imported.module, SEE_EVERYTHING if imported.alias else ())


def _quoted(annotations: Iterable[ast.expr]) -> Iterator[tuple[str, ...]]:
    """The names in annotations that are texts; libraries look them up in the module."""
    for annotation in annotations:
        for node in ast.walk(annotation):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from ((name,) for name in re.findall(r"[^\W\d]\w*", node.value))


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of a statement, without what is for types alone."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        left += node.orelse if isinstance(node, ast.If) and for_types_only(node) else ast.iter_child_nodes(node)


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement may bind in its module."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in _running(statement):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name
            case ast.MatchMapping(rest=str(name)):
                yield name


def is_dotted(text: str) -> bool:
    """Whether a text could name what a module defines."""
    return "." in text and all(map(str.isidentifier, text.split(".")))


def _may_name_a_file(text: str) -> bool:
    """Whether a text is the name of a file or folder beside a module."""
    if not text or len(text) > LONGEST_NAME or "\n" in text or "\0" in text:
        return False
    path = PurePath(text)
    return not path.is_absolute() and bool(path.parts) and ".." not in path.parts
