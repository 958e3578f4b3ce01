"""Functions rewritten so that they can die before each of their statements, and before and after each await."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Awaitable, Callable, Generator, Sequence
from pathlib import Path
from types import CellType, CodeType, FunctionType
from typing import Any, TypeVar, cast

from taskq.testing.mortal import Stop

T = TypeVar("T")

_STOP = "taskq_stop"
_THROUGH = "taskq_through"


def with_stops(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """A coroutine function that does the same and stops on the way; None when its source cannot be read."""
    if not isinstance(function, FunctionType):
        return None
    code = function.__code__
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError):
        return None
    found = tree.body[0]
    if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    ast.increment_lineno(tree, code.co_firstlineno - 1)
    found.decorator_list = []
    is_async = isinstance(found, ast.AsyncFunctionDef)
    found.body = _Rewriter(is_async=is_async).stopping(found.body)
    file = Path(code.co_filename).name

    async def stop(line: int) -> None:
        await Stop(f"before {file}:{line}")

    async def through(awaitable: Awaitable[T], line: int) -> T:
        await Stop(f"before the await at {file}:{line}")
        result = await awaitable
        await Stop(f"after the await at {file}:{line}")
        return result

    rewritten = _rebuilt(function, found, {_STOP: stop, _THROUGH: through})
    return rewritten if is_async else _stepping(rewritten, file)


class _Rewriter(ast.NodeTransformer):
    """Puts a stop before each statement of a function; those of functions and classes inside are left alone."""

    def __init__(self, *, is_async: bool) -> None:
        self._is_async = is_async

    def stopping(self, block: Sequence[ast.stmt]) -> list[ast.stmt]:
        """The statements with a stop before each."""
        stopping: list[ast.stmt] = []
        for statement in block:
            line = ast.Constant(statement.lineno)
            stop = ast.Await(_call(_STOP, line)) if self._is_async else ast.Yield(line)
            placed = ast.copy_location(ast.Expr(stop), statement)
            stopping += [ast.fix_missing_locations(placed), self.visit(statement)]
        return stopping

    def visit_Await(self, node: ast.Await) -> ast.AST:
        through = ast.Await(_call(_THROUGH, self.visit(node.value), ast.Constant(node.lineno)))
        return ast.fix_missing_locations(ast.copy_location(through, node))

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            return node
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
            elif isinstance(value, list):
                parts = cast("list[ast.stmt]", value)
                if name in ("body", "orelse", "finalbody"):
                    setattr(node, name, self.stopping(parts))
                else:
                    setattr(
                        node,
                        name,
                        [
                            self.visit(part) if isinstance(part, ast.AST) else part
                            for part in cast("list[object]", value)
                        ],
                    )
        return node


def _call(name: str, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(args), [])


def _rebuilt(
    function: FunctionType, node: ast.FunctionDef | ast.AsyncFunctionDef, names: dict[str, Any]
) -> Callable[..., Any]:
    """The function of this tree, with the globals, defaults and cells of the one it was made of."""
    code = function.__code__
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    cells |= {name: CellType(value) for name, value in names.items()}
    around = ast.parse(f"def around({', '.join(cells)}): pass")
    cast("ast.FunctionDef", around.body[0]).body = [node]
    made = compile(around, code.co_filename, "exec", dont_inherit=True)
    inner = _code_in(_code_in(made, "around"), function.__name__)
    closure = tuple(cells[name] for name in inner.co_freevars)
    rebuilt = FunctionType(inner, function.__globals__, function.__name__, function.__defaults__, closure)
    rebuilt.__kwdefaults__ = cast("dict[str, Any]", function.__kwdefaults__)
    return functools.update_wrapper(rebuilt, function)


def _code_in(code: CodeType, name: str) -> CodeType:
    return next(part for part in code.co_consts if isinstance(part, CodeType) and part.co_name == name)


def _stepping(function: Callable[..., Generator[int, None, Any]], file: str) -> Callable[..., Any]:
    """A sync function that was made a generator of stops, as a coroutine function."""

    async def step_through(*args: Any, **kwargs: Any) -> Any:
        going = function(*args, **kwargs)
        while True:
            try:
                line = next(going)
            except StopIteration as end:
                return end.value
            await Stop(f"before {file}:{line}")

    return functools.update_wrapper(step_through, function)
