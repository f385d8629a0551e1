"""Whether a top-level statement does more, when its module is imported, than bind its names.

One that only binds names counts where one of them is used. For all that is not known here it is taken to do more.
"""

import ast
import builtins
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from kto_lab.runs.definitions import Statement
from kto_lab.runs.source import dotted

PURE_TYPES = ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "range", "set", "slice", "str", "tuple")
PURE_BUILTINS = (*PURE_TYPES, "abs", "enumerate", "len", "max", "min", "reversed", "round", "sorted", "sum", "zip")
PURE = {
    *(f"builtins.{name}" for name in (*PURE_BUILTINS, "dict.fromkeys")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta")),
    *(f"pathlib.{name}" for name in ("Path", "PurePath")),
    *(f"re.{name}" for name in ("compile", "escape")),
    *(f"typing.{name}" for name in ("NewType", "ParamSpec", "TypeVar")),
    "dataclasses.field",
    "enum.auto",
    "logging.getLogger",
    "struct.Struct",
}
DATACLASS = "dataclasses.dataclass"
# Decorators that do nothing but to what they decorate.
MARKING = {
    *(f"builtins.{name}" for name in ("classmethod", "property", "staticmethod")),
    *(f"functools.{name}" for name in ("cache", "cached_property", "lru_cache", "total_ordering", "wraps")),
    *(f"typing.{name}" for name in ("final", "overload", "override", "runtime_checkable")),
    "abc.abstractmethod",
    "contextlib.asynccontextmanager",
    "contextlib.contextmanager",
    "enum.unique",
    "lightning.pytorch.utilities.rank_zero_only",
    "torch.inference_mode",
    "torch.no_grad",
    DATACLASS,
}
OF_PROPERTY = ("deleter", "getter", "setter")
# To inherit from these does nothing else.
BASES = {
    *(f"builtins.{name}" for name, value in vars(builtins).items() if isinstance(value, type)),
    *(f"collections.abc.{name}" for name in ("Callable", "Iterable", "Iterator", "Mapping", "Sequence")),
    *(f"enum.{name}" for name in ("Enum", "Flag", "IntEnum", "IntFlag", "StrEnum")),
    *(f"typing.{name}" for name in ("Generic", "NamedTuple", "Protocol", "TypedDict")),
    "abc.ABC",
    "torch.nn.Module",
}
# Methods that run where a class is derived from, or an instance of it is bound in the body of one.
RUN_UNASKED = {"__class_getitem__", "__get__", "__init_subclass__", "__mro_entries__", "__set__", "__set_name__"}
CHECK = "__post_init__"
RUN_WHEN_MADE = {"__getattribute__", "__init__", "__new__", "__setattr__", CHECK}
# Of an enum, whose members are made where it is defined.
MAKE_MEMBERS = {"__hash__", "__init__", "__new__", "__setattr__", "_generate_next_value_"}
DEEPEST = 20
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Origin:
    """Where a name comes from that a module of the closure defines."""

    module: str
    statement: Statement


# From a module and a dotted name in it to where that comes from: what defines it, or its dotted name where a builtin or
# an installed package does. None where that is not certain.
Resolve: TypeAlias = Callable[[str, tuple[str, ...]], Origin | str | None]


@dataclass(frozen=True)
class Effects:
    """Looks at the statements of modules."""

    resolve: Resolve

    def only_binds(self, module: str, node: ast.stmt, within: ast.ClassDef | None = None, depth: int = 0) -> bool:
        """Whether a statement only binds names.

        Args:
            module: that it is in.
            node: the statement, no import.
            within: the class whose body it is in.
            depth: of the classes around it.
        """
        match node:
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                return True
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return all(self._only_marks(module, one, within) for one in node.decorator_list) and all(
                    self._is_pure(module, part) for part in _evaluated(node)
                )
            case ast.ClassDef():
                return (
                    depth < DEEPEST
                    and all(self._only_marks(module, one, within) for one in node.decorator_list)
                    and self._inherits_only(module, node)
                    and all(self.only_binds(module, inner, node, depth + 1) for inner in node.body)
                )
            case ast.Assign(targets=targets, value=value):
                return all(map(_is_names, targets)) and self._is_pure(module, value)
            case ast.AnnAssign(target=ast.Name(), annotation=annotation, value=optional):
                return self._is_pure(module, annotation) and (optional is None or self._is_pure(module, optional))
        return False

    def _is_pure(self, module: str, node: ast.AST) -> bool:
        """Whether to evaluate an expression has no effect."""
        match node:
            case ast.NamedExpr() | ast.Await() | ast.Yield() | ast.YieldFrom():
                return False
            case ast.Lambda():
                return all(self._is_pure(module, part) for part in _defaults(node.args))
            case ast.Call(func=ast.Attribute(value=ast.Constant())):
                pass
            case ast.Call() if not self._makes_a_value(module, node):
                return False
        return all(self._is_pure(module, part) for part in ast.iter_child_nodes(node))

    def _makes_a_value(self, module: str, call: ast.Call) -> bool:
        """Whether what is called is known to do nothing but to make a value."""
        # A function that is handed on is called, and what is spread out may hold one.
        if any(keyword.arg in ("key", None) for keyword in call.keywords):
            return False
        chain = dotted(call.func)
        found = self.resolve(module, chain) if chain else None
        return found in PURE if isinstance(found, str) else found is not None and self._is_plain_dataclass(found)

    def _is_plain_dataclass(self, origin: Origin) -> bool:
        """Whether a class is a dataclass that runs no code of its own when one is made."""
        node = origin.statement.node
        if not isinstance(node, ast.ClassDef) or node.bases or node.keywords:
            return False
        unasked = (RUN_WHEN_MADE | RUN_UNASKED) & _methods(node)
        if unasked == {CHECK} and self._only_checks(origin.module, node):
            unasked = set()
        marks = [self.resolve(origin.module, dotted(_undecorated(one)) or ("",)) for one in node.decorator_list]
        return (
            marks == [DATACLASS]
            and not unasked
            and not any(isinstance(inner, ast.keyword) and inner.arg == "default_factory" for inner in ast.walk(node))
        )

    def _only_checks(self, module: str, node: ast.ClassDef) -> bool:
        """Whether a dataclass's `__post_init__` at most refuses what it is made of."""
        checks = [inner for inner in ast.walk(node) if isinstance(inner, Function) and inner.name == CHECK]
        if len(checks) != 1 or checks[0] not in node.body or checks[0].decorator_list:
            return False
        return not any(isinstance(inner, ast.Name) and inner.id == CHECK for inner in ast.walk(node)) and all(
            (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
            or (
                isinstance(one, ast.If)
                and not one.orelse
                and all(isinstance(inner, ast.Raise) for inner in one.body)
                and self._is_pure(module, one.test)
            )
            for one in checks[0].body
        )

    def _only_marks(self, module: str, decorator: ast.expr, within: ast.ClassDef | None) -> bool:
        """Whether a decorator does nothing but to what it decorates."""
        if not all(self._is_pure(module, part) for part in _arguments(decorator)):
            return False
        bare = _undecorated(decorator)
        if within is not None and isinstance(bare, ast.Attribute) and bare.attr in OF_PROPERTY:
            return isinstance(bare.value, ast.Name) and any(
                isinstance(one, Function) and one.name == bare.value.id for one in within.body
            )
        chain = dotted(bare)
        found = self.resolve(module, chain) if chain else None
        if isinstance(found, Origin):
            node = found.statement.node
            return isinstance(node, ast.FunctionDef) and _only_sets(node, called=isinstance(decorator, ast.Call))
        return found in MARKING

    def _inherits_only(self, module: str, node: ast.ClassDef, depth: int = 0) -> bool:
        """Whether to derive a class from its bases runs no code of theirs."""
        # A TypedDict's.
        if depth > DEEPEST or any(keyword.arg != "total" for keyword in node.keywords):
            return False
        if not all(self._is_pure(module, part) for part in (*node.bases, *node.keywords)):
            return False
        for base in node.bases:
            chain = dotted(base.value if isinstance(base, ast.Subscript) else base)
            found = self.resolve(module, chain) if chain else None
            if isinstance(found, Origin):
                own = found.statement.node
                if (
                    not isinstance(own, ast.ClassDef)
                    or RUN_UNASKED & _methods(own)
                    or not self._inherits_only(found.module, own, depth + 1)
                ):
                    return False
            elif found not in BASES or (found.startswith("enum.") and MAKE_MEMBERS & _methods(node)):
                return False
        return True


def _methods(node: ast.ClassDef) -> set[str]:
    """The names of the functions in a class, and of all that may be one."""
    functions = {inner.name for inner in ast.walk(node) if isinstance(inner, Function)}
    return functions | {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _evaluated(node: Function) -> Iterator[ast.AST]:
    """What of a function is evaluated where it is defined, decorators apart."""
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    yield from _defaults(arguments)
    yield from (one.annotation for one in every if one is not None and one.annotation is not None)
    yield from [] if node.returns is None else [node.returns]


def _defaults(arguments: ast.arguments) -> Iterator[ast.expr]:
    yield from arguments.defaults
    yield from (one for one in arguments.kw_defaults if one is not None)


def _undecorated(decorator: ast.expr) -> ast.expr:
    """What a decorator names, without its arguments."""
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def _arguments(decorator: ast.expr) -> list[ast.expr]:
    if not isinstance(decorator, ast.Call):
        return []
    return [*decorator.args, *(keyword.value for keyword in decorator.keywords)]


def _is_names(target: ast.AST) -> bool:
    """Whether what is assigned to is a name, or several."""
    if isinstance(target, ast.Tuple | ast.List):
        return all(map(_is_names, target.elts))
    return isinstance(target, ast.Name)


def _calls(node: ast.AST) -> bool:
    """Whether anything is called in a piece of code."""
    return any(isinstance(inner, ast.Call) for inner in ast.walk(node))


def _only_sets(function: ast.FunctionDef, *, called: bool) -> bool:
    """Whether a decorator only sets attributes of what it decorates, and gives it back.

    Args:
        function: the decorator, or what returns it.
        called: whether it returns the decorator: a function within it, and nothing else is in it.
    """
    body = [node for node in function.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    if called:
        match body:
            case [ast.FunctionDef() as inner, ast.Return(value=ast.Name(id=name))] if name == inner.name:
                return not function.decorator_list and _only_sets(inner, called=False)
        return False
    if function.decorator_list or len(function.args.args) != 1 or not body or _calls(function):
        return False
    (parameter,) = function.args.args

    def is_parameter(node: ast.AST | None) -> bool:
        return isinstance(node, ast.Name) and node.id == parameter.arg

    *settings, last = body
    return (
        isinstance(last, ast.Return)
        and is_parameter(last.value)
        and all(
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Name | ast.Constant)
            and all(isinstance(one, ast.Attribute) and is_parameter(one.value) for one in node.targets)
            for node in settings
        )
    )
