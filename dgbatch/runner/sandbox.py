"""Jinja for the templates of a job: sandboxed, and with an end to what one text may cost.

Whatever can grow is paid for in steps before it is done: a turn of a loop, an element, a call, a stretch of text. A
template that would run for hours or fill the memory fails after a second or so, and costs its row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sized
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

STEPS = 2_000_000  # of one text
STRETCH = 128  # characters for one step
MOST_CHARACTERS = 8 << 20  # of one text: no model's context holds more
CALL = 20  # steps for a call: it takes as long as so many turns of a loop
MOST_DEPTH = 100  # of lists in lists; Python's hash of a tuple in a tuple, and so on, ends the process somewhere beyond
MOST_BITS = 1 << 14  # of a whole number: Python prints no longer ones
PAID, TURNS = "(paid)", "(turns)"  # filters of ours; no template can name them
# Nothing random in a prompt, and no pages of the web.
ABSENT_FILTERS = ("random", "urlize", "xmlattr")
# Their result may be far longer than what goes in, or they take far longer than it is; a prompt needs none of them.
ABSENT_METHODS = {"decode", "encode", "expandtabs", "from_bytes", "maketrans", "to_bytes", "translate"}
WIDE = re.compile(r"%[^%a-zA-Z]*(?:\*|\d{5})|\{[^{}]*:[^{}]*(?:\{|\d{5})")  # %99999d, %*d, {:99999}, {:{width}}
GROWING = {"batch", "center", "format", "indent", "replace", "round", "slice", "tojson", "wordwrap"}
ELEMENTWISE = {"batch", "groupby", "list", "map", "max", "min", "reject", "rejectattr", "reverse", "select",
               "selectattr", "slice", "sort", "sum", "unique"}  # fmt: skip
TEXTS = (str, bytes)
SCALARS = {bool, float, int, type(None)}
SEQUENCES = (str, bytes, list, tuple)


class TooMuch(jinja2.TemplateRuntimeError):
    """The template asks for more than one text may cost."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Renders one text at a time. Call `begin` before each."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, finalize: Callable[[Any], Any], **options: Any):
        def printed(value: Any) -> Any:
            if type(value) is str:  # paid for by its length, where it is joined
                return value
            self.pay(value)
            return finalize(value)

        super().__init__(undefined=jinja2.StrictUndefined, finalize=printed, **options)
        self.begin()
        for name in ABSENT_FILTERS:
            del self.filters[name]
        del self.globals["lipsum"]
        self.filters = {name: self._paid(name, function) for name, function in self.filters.items()}
        tests: dict[str, Any] = {**self.tests}
        self.tests = {name: self._paid(name, function) for name, function in tests.items()}

        @jinja2.pass_context  # or the compiler works it out once, and nobody pays
        def paid(context: Context, value: Any) -> Any:
            self.pay(value)
            return value

        @jinja2.pass_context
        def turns(context: Context, value: Any) -> Any:
            self.pay(value)
            if isinstance(value, TEXTS):
                self.spend(len(value))
            return value

        self.filters |= {PAID: paid, TURNS: turns}

    def begin(self) -> None:
        self.left = STEPS

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise TooMuch(
                f"it takes more than {STEPS:,} steps, or makes more than {MOST_CHARACTERS:,} characters of text. "
                "Shorten its loops, or do this work where the data is made"
            )

    def pay(self, *values: Any) -> None:
        """For going over these values once, all that is inside them too."""
        steps, level = len(values), []
        for value in values:
            if type(value) is str:
                steps += len(value) // STRETCH
            elif type(value) not in SCALARS:
                level.append(value)
        self.spend(steps)
        if level:
            self._pay_inside(level)

    def _pay_inside(self, level: list[Any]) -> None:
        for _ in range(MOST_DEPTH):
            inside: list[Any] = []
            for value in level:
                steps = 1
                if isinstance(value, TEXTS):
                    steps += len(value) // STRETCH
                elif isinstance(value, (dict, list, tuple, set, frozenset)):
                    steps += len(value)
                    self._can_spend(steps)
                    inside += value
                    if isinstance(value, dict):
                        inside += value.values()
                elif isinstance(value, Sized) and not isinstance(value, jinja2.Undefined):
                    steps += len(value)
                self.spend(steps)
            if not inside:
                return
            level = inside
        raise TooMuch(f"it nests values more than {MOST_DEPTH} deep. Make them flatter")

    def _can_spend(self, steps: int) -> None:
        if steps > self.left:
            self.spend(steps)

    def text(self, characters: int) -> None:
        """Pay for a text of this length."""
        self.spend(STEPS + 1 if characters > MOST_CHARACTERS else characters // STRETCH)

    def concat(self, pieces: Iterable[str]) -> str:
        kept, characters = [], 0
        for piece in pieces:
            kept.append(piece)
            characters += len(piece)
            if characters > MOST_CHARACTERS:
                break
        self.text(characters)
        return "".join(kept)

    def _paid(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        leading = 1 if getattr(function, "jinja_pass_arg", None) else 0  # the context, which Jinja itself puts there

        grows = name in GROWING or name in ELEMENTWISE

        @wraps(function)
        def paying(*arguments: Any, **named: Any) -> Any:
            given = list(arguments[leading:])
            if name == "join" and given:
                given[0] = _listed(given[0])
                separators = [value for value in (*given[1:], *named.values()) if isinstance(value, TEXTS)]
                self.text(len(given[0]) * max(map(len, separators), default=0))
            self.pay(*given, *named.values())
            if given and grows:
                self._grows(name, given[0], [*given[1:], *named.values()])
            return function(*arguments[:leading], *given, **named)

        return paying

    def _grows(self, name: str, value: Any, more: list[Any]) -> None:
        """Pay for a result that may be larger than what goes into a filter or a method."""
        most = max([number for number in more if isinstance(number, int)], default=0)
        longest = max([len(text) for text in more if isinstance(text, TEXTS)], default=0)
        if name in ("center", "ljust", "rjust", "zfill"):
            self.text(most)
        elif name in ("batch", "slice"):
            self.spend(most)
        elif name == "indent":
            self.text((1 + str(value).count("\n")) * max(most, longest))
        elif name == "wordwrap" and longest:
            self.text(len(str(value)) * longest)
        elif name == "tojson":
            before = self.left
            self.pay(value)
            self.spend((before - self.left) * most)
        elif name == "round":
            self._bits(4 * most)
        elif name == "replace":
            text, parts = str(value), [str(part) for part in more]
            self.text(len(text) + max(map(text.count, parts), default=0) * max(map(len, parts), default=0))
        elif name in ("format", "format_map"):
            self._formats(value, more)
        if name in ELEMENTWISE and isinstance(value, TEXTS):
            self.spend(len(value))

    def _formats(self, text: Any, values: Any) -> None:
        text = text.decode("latin-1") if isinstance(text, bytes) else str(text)
        if WIDE.search(text):
            raise TooMuch(
                "it formats to a width of five digits or more, or one taken from the data. Write a small width"
            )
        for _ in range(text.count("%") + text.count("{")):
            self.pay(values)

    def _bits(self, bits: int) -> None:
        if bits > MOST_BITS:
            raise TooMuch(f"it computes with numbers of more than {MOST_BITS:,} bits. Use smaller ones")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        whole = isinstance(left, int) and isinstance(right, int)
        if operator == "+" and isinstance(left, SEQUENCES):
            self.pay(left, right)
            if isinstance(left, TEXTS) and isinstance(right, TEXTS):
                self.text(len(left) + len(right))
        elif operator == "*" and whole:
            self._bits(left.bit_length() + right.bit_length())
        elif operator == "*":
            self._repeats(left, right)
        elif operator == "**" and whole:
            self._bits(left.bit_length() * max(right, 0) if abs(left) > 1 else 0)
        elif operator == "%" and isinstance(left, TEXTS):
            self._formats(left, right)
        return super().call_binop(context, operator, left, right)

    def _repeats(self, left: Any, right: Any) -> None:
        sequence, times = (left, right) if isinstance(left, SEQUENCES) else (right, left)
        if isinstance(sequence, SEQUENCES) and isinstance(times, int):
            if isinstance(sequence, TEXTS):
                self.text(len(sequence) * max(times, 0))
            else:
                self.spend(len(sequence) * max(times, 0))

    def getitem(self, obj: Any, argument: Any) -> Any:
        if not isinstance(argument, (str, int)):
            self.pay(argument)  # to hash it, or to say in an error what it is
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in ABSENT_METHODS and super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *arguments: Any, **named: Any) -> Any:
        method = getattr(obj, "__wrapped__", obj)  # Jinja wraps str.format
        owner = getattr(method, "__self__", None)
        name = getattr(method, "__name__", "")
        if isinstance(owner, TEXTS) and name == "join" and arguments:
            arguments = (_listed(arguments[0]), *arguments[1:])
            self.text(len(arguments[0]) * len(owner))
        self.spend(CALL)
        self.pay(*arguments, *named.values())
        if isinstance(owner, (*SEQUENCES, dict)):
            self.pay(owner)
            self._grows(name, owner, [*arguments, *named.values()])
        result = super().call(context, obj, *arguments, **named)
        if isinstance(result, (list, tuple)):
            self.pay(result)
        return result

    def _generate(self, source: nodes.Template, *arguments: Any, **options: Any) -> str:
        return super()._generate(_Payments(self).visit(source), *arguments, **options)


def _listed(items: Any) -> Any:
    """What a filter gives bit by bit, all at once: so that it has a length."""
    return items if isinstance(items, Sized) else list(items)


class _Payments(NodeTransformer):
    """Puts a filter of ours around what the compiler turns into plain Python: loops, `in`, slices, keys; `~` too."""

    def __init__(self, environment: BoundedEnvironment):
        self._environment = environment

    def _filter(self, name: str, value: nodes.Expr) -> nodes.Filter:
        return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno, environment=self._environment)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.iter = self._filter(TURNS, node.iter)  # type: ignore[arg-type]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.expr = self._filter(PAID, node.expr)
        for operand in node.ops:
            operand.expr = self._filter(PAID, operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        if isinstance(node.arg, nodes.Slice):
            node.node = self._filter(PAID, node.node)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.key = self._filter(PAID, node.key)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        together = nodes.List(node.nodes, lineno=node.lineno, environment=self._environment)
        return self._filter("join", together)
