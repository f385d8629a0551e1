"""What a Python file does, as a text that leaves out how it is written.

Comments, layout, docstrings, `pass`, names of local variables and their annotations, and what stands under
`if TYPE_CHECKING:` change nothing that a run computes, so two files that differ by these alone have one text. The text
is written here rather than by `ast.dump`, whose form changes from one version of Python to the next.
"""

import ast
from collections.abc import Iterable, Iterator

# A function that calls one of these can see the names of its variables.
SEES_NAMES = {"locals", "vars", "dir", "eval", "exec"}
# Fields of a node that say how it was written.
OF_WRITING = {"ctx", "kind", "type_comment", "type_ignores", "type_params"}
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def canonical(tree: ast.Module) -> str:
    """A parsed file as a text that is the same for files that do the same, however they are written."""
    writer = _Writer()
    writer.statements(tree.body, None)
    return "".join(writer.written)


def written(node: ast.stmt) -> tuple[str, frozenset[tuple[str, ...]]]:
    """A statement of a module as such a text, and the names of the module, or builtin ones, that it uses.

    Returns:
        The text, and each name with the attributes that are looked up on it: `m.f(x)` uses ("m", "f") and ("x",).
    """
    writer = _Writer()
    writer.statements([node], None)
    return "".join(writer.written), frozenset(writer.used)


def dotted(node: ast.AST) -> tuple[str, ...]:
    """The parts of a dotted name such as `a.b.c`; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else ()


def for_types_only(node: ast.AST) -> bool:
    """Whether a node is an `if TYPE_CHECKING:`, whose body never runs."""
    if not isinstance(node, ast.If):
        return False
    test = node.test
    name = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else ""
    return name == "TYPE_CHECKING"


def _does_nothing(node: ast.stmt) -> bool:
    """Whether a statement has no effect: `pass`, a docstring, `...`."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


class _Scope:
    """The names that a function, a comprehension or a class binds.

    Attributes:
        outer: the scope around it; None stands for the module.
        is_class: names of a class are seen in its body alone, and from outside it.
        variables: names that may be called anything.
        others: names that it binds and that can be seen from elsewhere: parameters, functions, classes, imports.
        of_module: names that are declared global.
        of_outer: names that are declared nonlocal.
        aliases: variable to what it is called in the text.
    """

    def __init__(self, outer: "_Scope | None", *, is_class: bool = False) -> None:
        self.outer, self.is_class = outer, is_class
        self.variables: set[str] = set()
        self.others: set[str] = set()
        self.of_module: set[str] = set()
        self.of_outer: set[str] = set()
        self.aliases: dict[str, str] = {}

    def gather(self, nodes: Iterable[ast.AST]) -> None:
        """Take in the names that these nodes bind, nested scopes apart."""
        for node in nodes:
            self._gather(node)

    def _gather(self, node: ast.AST) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self.others.add(node.name)
                return
            case ast.Lambda():
                return
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                walruses = (inner for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
                self.variables |= {inner.target.id for inner in walruses}
                return
            case ast.Import() | ast.ImportFrom():
                self.others |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
            case ast.Global():
                self.of_module |= set(node.names)
            case ast.Nonlocal():
                self.of_outer |= set(node.names)
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                self.variables.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                self.variables.add(name)
            case ast.MatchMapping(rest=str(rest)):
                self.variables.add(rest)
        self.gather(ast.iter_child_nodes(node))


class _Writer:
    """Writes nodes one after another.

    Attributes:
        written: the text, in pieces.
        used: names of the module that were met, with the attributes that are looked up on them.
    """

    def __init__(self) -> None:
        self.written: list[str] = []
        self.used: set[tuple[str, ...]] = set()
        self._variables = 0

    def statements(self, nodes: Iterable[ast.stmt], scope: _Scope | None) -> None:
        """Write a body, without what does nothing."""
        self.written.append("[")
        for node in nodes:
            if for_types_only(node):
                assert isinstance(node, ast.If)
                self.statements(node.orelse, scope)
            elif isinstance(node, ast.AnnAssign) and scope is not None and not scope.is_class:
                self._annotated(node, scope)
            elif not _does_nothing(node):
                self.node(node, scope)
        self.written.append("]")

    def _annotated(self, node: ast.AnnAssign, scope: _Scope) -> None:
        """Write an assignment to a variable of a function, whose annotation is not looked at."""
        if node.value is not None:
            self.node(ast.Assign(targets=[node.target], value=node.value), scope)

    def node(self, node: ast.AST, scope: _Scope | None) -> None:
        """Write a node and what is in it."""
        match node:
            case ast.Name() | ast.Attribute() if chain := dotted(node):
                if _is_of_module(chain[0], scope):
                    self.used.add(chain)
                self._dotted(node, scope)
            case ast.Constant(value=value):
                self.written.append(f"<{type(value).__name__} {value!r}>")
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                self._function(node, scope)
            case ast.ClassDef():
                self._class(node, scope)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._comprehension(node, scope)
            case ast.Global() | ast.Nonlocal():
                self.used |= {(name,) for name in node.names if _is_of_module(name, scope)}
                names = sorted(self.called(name, scope) for name in node.names)
                self.written.append(f"({type(node).__name__} {names})")
            case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
                self._fields(node, scope, names=("name",))
            case ast.MatchMapping():
                self._fields(node, scope, names=("rest",))
            case _:
                self._fields(node, scope)

    def called(self, name: str, scope: _Scope | None) -> str:
        """What a name is called in the text: itself, unless it is a variable of a function."""
        here = scope
        while here is not None:
            if name in here.of_module:
                return name
            if name not in here.of_outer and (not here.is_class or here is scope):
                if name in here.others:
                    return name
                if name in here.variables:
                    if name not in here.aliases:
                        self._variables += 1
                        here.aliases[name] = f"variable {self._variables}"
                    return here.aliases[name]
            here = here.outer
        return name

    def _dotted(self, node: ast.AST, scope: _Scope | None) -> None:
        """Write a dotted name."""
        if isinstance(node, ast.Attribute):
            self.written.append("(Attribute value=")
            self._dotted(node.value, scope)
            self.written.append(f" attr=<{node.attr!r}>)")
        else:
            assert isinstance(node, ast.Name)
            self.written.append(f"<{self.called(node.id, scope)}>")

    def _fields(self, node: ast.AST, scope: _Scope | None, names: tuple[str, ...] = (), without: str = "") -> None:
        """Write a node by its fields; `names` are fields that hold a variable's name."""
        self.written.append(f"({type(node).__name__}")
        for field, value in _fields(node):
            if field == without:
                continue
            self.written.append(f" {field}=")
            if field in names:
                self.written.append(self.called(str(value), scope))
            else:
                self._value(value, scope)
        self.written.append(")")

    def _value(self, value: object, scope: _Scope | None) -> None:
        if isinstance(value, ast.AST):
            self.node(value, scope)
        elif isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            self.statements(value, scope)
        elif isinstance(value, list):
            self.written.append("[")
            for item in value:
                self._value(item, scope)
            self.written.append("]")
        else:
            self.written.append(f"<{value!r}>")

    def _function(self, node: Function, scope: _Scope | None) -> None:
        """Write a function: what stands before its body is of the scope around it."""
        inner = _Scope(scope)
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        inner.gather(body)
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        inner.others |= {one.arg for one in named if one is not None}
        inner.others |= {one.name for one in getattr(node, "type_params", ())}
        if any(isinstance(part, ast.Name) and part.id in SEES_NAMES for part in ast.walk(node)):
            inner.others |= inner.variables
        self._fields(node, scope, without="body")
        if isinstance(node, ast.Lambda):
            self.node(node.body, inner)
        else:
            self.statements(node.body, inner)

    def _class(self, node: ast.ClassDef, scope: _Scope | None) -> None:
        inner = _Scope(scope, is_class=True)
        inner.gather(node.body)
        # What a class binds are its attributes.
        inner.others |= inner.variables
        self._fields(node, scope, without="body")
        self.statements(node.body, inner)

    def _comprehension(self, node: Comprehension, scope: _Scope | None) -> None:
        """Write a comprehension; what it runs over first is of the scope around it."""
        inner = _Scope(scope)
        for generator in node.generators:
            inner.gather([generator.target])
        self.written.append(f"({type(node).__name__}")
        for place, generator in enumerate(node.generators):
            self.node(generator.iter, inner if place else scope)
            self.node(generator.target, inner)
            self._value(generator.ifs, inner)
            self.written.append(f"<{generator.is_async}>")
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self.node(part, inner)
        self.written.append(")")


def _is_of_module(name: str, scope: _Scope | None) -> bool:
    """Whether a name may be the module's; in the body of a class it may be until the class binds it."""
    while scope is not None:
        if name in scope.of_module:
            return True
        if not scope.is_class and name not in scope.of_outer and name in scope.others | scope.variables:
            return False
        scope = scope.outer
    return True


def _fields(node: ast.AST) -> Iterator[tuple[str, object]]:
    """The fields of a node that say something; what is empty is left out, as some versions of Python lack it."""
    for field, value in ast.iter_fields(node):
        if field not in OF_WRITING and value is not None and value != []:
            yield field, value
