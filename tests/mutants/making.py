"""Mutants of a module: small changes of its source, each of which some test should notice (pure).

No mutants are made of what no behaviour hangs on: annotations, docstrings, decorators, protocols, messages (text with a
space in it) and the log.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from attrs import evolve, frozen

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

_COMPARISONS: Final[dict[type[ast.cmpop], tuple[str, ...]]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
_ARITHMETIC: Final[dict[type[ast.operator], str]] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.LShift: ">>",
    ast.RShift: "<<",
    ast.BitOr: "&",
    ast.BitAnd: "|",
    ast.BitXor: "|",
}
_CALLED: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
_OPERATOR: Final = re.compile(
    rb"\bis\s+not\b|\bis\b|\bnot\s+in\b|\bin\b|\band\b|\bor\b|[=!<>]=|<<|>>|//|\*\*|[-<>+*/%|&^]"
)
_LOGS: Final = {"_log", "_LOGGER", "getLogger"}
_TYPING: Final = {"TypeVar", "ParamSpec", "NewType", "assert_never"}
_UNTOLD: Final = {"__all__", "__slots__"}
# Whole numbers from here on are sizes: one more or less is hardly ever what matters.
_SIZE: Final = 100

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@frozen
class Mutant:
    """A change of one module.

    Attributes:
        path: of the module, from the project's root.
        line: where the change begins, from 1.
        lines: first and last line of those that a test has to run to run the change.
        is_on_import: whether it is run when the module is imported.
        names: what it defines then: who uses it feels the change.
        start, end: what is replaced, in bytes of the source.
        old, new: the text there, and the one instead of it.
        text: of the line, without its indentation.
        nth: of the changes which are alike in all of that.
    """

    path: str
    line: int
    lines: tuple[int, int]
    is_on_import: bool
    names: tuple[str, ...]
    start: int
    end: int
    old: str
    new: str
    text: str
    nth: int = 0

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.path}:{self.line}  {_short(old)} → {_short(new)}"

    def rank(self, seed: int) -> bytes:
        """Return what a sample is drawn by: it stays the same when other lines change."""
        parts = (seed, self.path, self.text, self.old, self.new, self.nth)
        return sha256("\0".join(map(str, parts)).encode()).digest()

    def applied(self, source: bytes) -> bytes:
        """Return the source with the change.

        Args:
            source: of the module.
        """
        return source[: self.start] + self.new.encode() + source[self.end :]

    def is_change(self, source: bytes) -> bool:
        """Return whether the mutant is a program, and another one than the original."""
        try:
            mutated = ast.parse(self.applied(source))
        except SyntaxError:
            return False
        return ast.dump(mutated) != ast.dump(ast.parse(source))


def mutants_of(source: bytes, path: str) -> list[Mutant]:
    """Return all mutants of a module, in the order of its source.

    Args:
        source: UTF-8.
        path: from the project's root.
    """
    maker = _Maker(source, path)
    maker.visit(ast.parse(source))
    alike = Counter[tuple[str, str, str]]()
    found: list[Mutant] = []
    for mutant in sorted(
        set(maker.found), key=lambda mutant: (mutant.start, mutant.end, mutant.new)
    ):
        key = (mutant.text, mutant.old, mutant.new)
        found.append(evolve(mutant, nth=alike[key]))
        alike[key] += 1
    return found


class _Maker(ast.NodeVisitor):
    def __init__(self, source: bytes, path: str) -> None:
        self.found: list[Mutant] = []
        self._source = source
        self._path = path
        self._lines = source.splitlines(keepends=True)
        self._offsets = [0]
        for line in self._lines:
            self._offsets.append(self._offsets[-1] + len(line))
        self._span = (1, 1)
        self._names: tuple[str, ...] = ()
        self._classes: list[str] = []
        self._in_function = False

    # What is where.

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._offsets[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._offsets[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr | ast.stmt) -> str:
        return self._source[self._start(node) : self._end(node)].decode()

    def _add(self, start: int, end: int, new: str) -> None:
        line = self._source.count(b"\n", 0, start) + 1
        mutant = Mutant(
            path=self._path,
            line=line,
            lines=self._span,
            is_on_import=not self._in_function,
            names=self._names,
            start=start,
            end=end,
            old=self._source[start:end].decode(),
            new=new,
            text=self._lines[line - 1].decode().strip(),
        )
        self.found.append(mutant)

    def _replace(self, node: ast.expr | ast.stmt, new: str) -> None:
        self._add(self._start(node), self._end(node), new)

    def _replace_between(self, left: ast.expr, right: ast.expr, *new: str) -> None:
        start, end = self._end(left), self._start(right)
        gap = self._source[start:end]
        found = None if b"#" in gap else _OPERATOR.search(gap)
        if found is not None:
            for text in new:
                self._add(start + found.start(), start + found.end(), text)

    # Statements, which say what has to be run to run them.

    def visit(self, node: ast.AST) -> None:
        if not isinstance(node, ast.stmt):
            super().visit(node)
            return
        if _is_told_to_nobody(node):
            return
        with self._within(node):
            self._leave_out(node)
            super().visit(node)

    @contextmanager
    def _within(self, node: ast.stmt) -> Generator[None]:
        before = self._span, self._names
        self._span = _header(node)
        if self._in_function:
            self._names = ()
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = [target.id for target in targets if isinstance(target, ast.Name)]
            self._names = (*named, *self._classes)
        yield
        self._span, self._names = before

    def _leave_out(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise() | ast.Delete():
                self._replace(node, "pass")
            case ast.Return(value=None):
                self._replace(node, "pass")
            case ast.Assign(targets=targets) if any(map(_is_place, targets)):
                self._replace(node, "pass")
            case ast.AnnAssign(target=target) if node.value is not None and _is_place(target):
                self._replace(node, "pass")
            case ast.AugAssign():
                self._replace(node, "pass")
            case ast.Break():
                self._replace(node, "continue")
            case ast.Continue():
                self._replace(node, "break")
            case ast.With() | ast.AsyncWith():
                self._leave_out_context(node)
            case _:
                pass

    def _leave_out_context(self, node: ast.With | ast.AsyncWith) -> None:
        end = self._end(node.items[-1].context_expr)
        is_named = any(item.optional_vars is not None for item in node.items)
        if not is_named and self._source[end : end + 1] == b":":
            self._add(self._start(node), end, "if True")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def _visit_function(self, node: _Function) -> None:
        # Who runs the body runs the defaults.
        self._span = (node.body[0].lineno, node.end_lineno or node.lineno)
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        before, self._in_function = self._in_function, True
        for statement in node.body:
            self.visit(statement)
        self._in_function = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._classes.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._classes.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            if not isinstance(node.value, ast.Constant):
                self._replace(node.value, "None")
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        start, end = self._end(node.target), self._start(node.value)
        found = _OPERATOR.search(self._source[start:end])
        if found is not None and not _is_text(node.value):
            self._add(start + found.start(), start + found.end(), _ARITHMETIC[type(node.op)])
        self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        names = _names_in(node.test)
        if "TYPE_CHECKING" in names:
            return
        if "isEnabledFor" not in names:
            self._negate(node.test)
            self.visit(node.test)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    def visit_While(self, node: ast.While) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    # Expressions.

    def _negate(self, test: ast.expr) -> None:
        is_negated_elsewhere = (
            isinstance(test, ast.Constant)
            or (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not))
            or (isinstance(test, ast.Compare) and len(test.ops) == 1)
        )
        if not is_negated_elsewhere:
            self._replace(test, f"not ({self._text(test)})")

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def visit_match_case(self, node: ast.match_case) -> None:
        if node.guard is not None:
            self._negate(node.guard)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        values = [node.left, *node.comparators]
        for left, operator, right in zip(values, node.ops, node.comparators, strict=False):
            self._replace_between(left, right, *_COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = "or" if isinstance(node.op, ast.And) else "and"
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._replace_between(left, right, other)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        is_type = isinstance(node.op, ast.BitOr) and not self._in_function
        other = _ARITHMETIC.get(type(node.op))
        if (
            other is not None
            and not is_type
            and not _is_text(node.left)
            and not _is_text(node.right)
        ):
            self._replace_between(node.left, node.right, other)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if not isinstance(node.op, ast.UAdd):
            self._replace(node, self._text(node).removeprefix("not").lstrip("-~ "))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in _CALLED:
            self._replace(node.func, _CALLED[node.func.id])
        if _names_in(node.func) == {"cast"}:
            node.args.pop(0)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if _names_in(node.value) & {"Literal", "Annotated"}:
            return
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        # Messages; and before Python 3.12 nobody knows where in the source their parts are.
        pass

    def visit_Constant(self, node: ast.Constant) -> None:
        for text in _others(node.value, self._text(node)):
            self._replace(node, text)


def _header(node: ast.stmt) -> tuple[int, int]:
    """Return the lines which belong to a statement, without the blocks in it."""
    blocks: list[int] = [
        child.lineno
        for child in ast.iter_child_nodes(node)
        if isinstance(child, ast.stmt | ast.ExceptHandler)
    ]
    cases = node.cases if isinstance(node, ast.Match) else []
    blocks += [case.pattern.lineno for case in cases]
    last = node.end_lineno or node.lineno
    return (node.lineno, max(node.lineno, min([last, *(line - 1 for line in blocks)])))


def _is_told_to_nobody(node: ast.stmt) -> bool:
    match node:
        case ast.FunctionDef(name="__repr__") | ast.Import() | ast.ImportFrom():
            return True
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return any(_names_in(decorator) & {"overload"} for decorator in node.decorator_list)
        case ast.ClassDef():
            return any(_names_in(base) & {"Protocol"} for base in node.bases)
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=call) | ast.Assign(value=call) | ast.AnnAssign(value=call):
            targets: Sequence[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign):
                targets = [node.target]
            if any(isinstance(target, ast.Name) and target.id in _UNTOLD for target in targets):
                return True
            return isinstance(call, ast.Call) and bool(_names_in(call.func) & (_LOGS | _TYPING))
        case _:
            return False


def _names_in(node: ast.AST) -> set[str]:
    names = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
    return names | {child.attr for child in ast.walk(node) if isinstance(child, ast.Attribute)}


def _is_place(target: ast.expr) -> bool:
    return isinstance(target, ast.Attribute | ast.Subscript)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def _others(value: object, text: str) -> tuple[str, ...]:
    match value:
        case bool():
            return (str(not value),)
        case int() if abs(value) >= _SIZE:
            return (str(2 * value), "0")
        case int():
            return tuple(str(other) for other in {value + 1, 0} - {value})
        case float():
            return tuple(str(other) for other in {2 * value, 0.0} - {value})
        case str() | bytes() if len(value) == 0:
            return (f'{text[:-2]}"XX"',)
        case str() if not any(map(str.isspace, value)):
            return ('""',)
        case bytes() if not value.strip(b"\r\n\t").count(b" "):
            return ('b""',)
        case _:
            return ()


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
