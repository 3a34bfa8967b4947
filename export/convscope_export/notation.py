"""ConvNet notation read into an architecture; docs/notation.md is its grammar.

`str(architecture)` prints it back: `parse(str(a)) == a`. Pure text and arithmetic:
knows nothing of torch or ONNX.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, get_args

from convscope_export.architecture import Architecture
from convscope_export.errors import ExportError
from convscope_export.excerpt import marked
from convscope_export.layers import (
    ArchitectureError,
    Conv,
    FullyConnected,
    GlobalAveragePool,
    Layer,
    Pool,
    PoolMethod,
    Relu,
    Repeat,
    Volume,
)
from convscope_export.tokens import Token, end_of, tokens

EXAMPLE = "INPUT(32x32x3) -> [[CONV(12, 3x3) -> RELU]*1 -> POOL(max, 2x2)]*1 -> FC(10)"

# VGG-16 takes 230 characters; ten nested groups would be a puzzle.
MAX_CHARACTERS = 10_000
MAX_DEPTH = 10
MAX_DIGITS = 7

_METHODS: tuple[PoolMethod, ...] = get_args(PoolMethod)
_FORMS = {
    "CONV": "CONV(filters, FxF), for example CONV(12, 3x3)",
    "POOL": "POOL(method, FxF), for example POOL(max, 2x2)",
    "FC": "FC(outputs), for example FC(10)",
    "INPUT": "INPUT(WxHxD), for example INPUT(32x32x3)",
}


class NotationError(ExportError):
    """Notation that stands for no architecture.

    The message is the reason, the line of the notation, and carets under the place.

    Attributes:
        reason: One line: what was expected, what came.
        start: Where the place begins, counted in characters from 0.
        end: Where it ends, exclusive; beyond the text where something is missing there.
    """

    def __init__(self, reason: str, text: str, start: int, end: int) -> None:
        """Keep the reason, and the place in the text."""
        self.reason, self.start, self.end = reason, start, end
        super().__init__(reason + marked(text, start, end))


def is_notation(text: str) -> bool:
    """Whether a text is meant as notation, right or wrong: no name looks like one."""
    return re.search(r"^\s*INPUT\b|->|→", text) is not None


def parse(text: str) -> Architecture:
    """The architecture that a text in ConvNet notation stands for.

    Case and white space do not matter; docs/notation.md holds the grammar.

    Raises:
        NotationError: It is no notation, or the architecture cannot be: volumes that do
            not fit, too large, no class scores at the end.
    """
    if len(text) > MAX_CHARACTERS:
        raise NotationError(
            f"expected notation of at most {MAX_CHARACTERS:,} characters, got {len(text):,}",
            *(text, 0, len(text)),
        )
    parser = _Parser(text)
    volume, items = parser.architecture()
    try:
        return Architecture(volume, items)
    except ArchitectureError as error:
        start, end = parser.place(error.item)
        raise NotationError(str(error), text, start, end) from error


class _Parser:
    """Recursive descent: one method for each rule of the grammar, one token of look-ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self._next = 0
        # By identity: equal layers stand in several places.
        self._places: dict[int, tuple[int, int]] = {}

    def place(self, item: Layer | Repeat | Volume | None) -> tuple[int, int]:
        """Where an item, or the input's volume, stands in the text; all of the text for None."""
        return (0, len(self._text)) if item is None else self._places[id(item)]

    # architecture = input { "->" item }
    def architecture(self) -> tuple[Volume, tuple[Layer | Repeat, ...]]:
        token = self._peek()
        if token.kind == "":
            self._fail(f"expected an architecture such as {EXAMPLE}, got nothing", token)
        if token.text.upper() != "INPUT":
            self._fail(f"expected INPUT first, such as INPUT(32x32x3), got {token}", token)
        volume = self._input()
        self._places[id(volume)] = (token.start, self._tokens[self._next - 1].end)
        items = []
        while self._peek().kind:
            self._arrow()
            items.append(self._item(depth=0))
        return volume, tuple(items)

    # input = "INPUT" "(" W "x" H "x" D ")"
    def _input(self) -> Volume:
        name = self._take()
        if self._peek().text != "(":
            self._fail(
                "INPUT lacks its numbers: this is the general form. Put numbers in place of its "
                f"letters, for example {EXAMPLE}",
                name,
            )
        self._take()
        width, height, depth = self._size("INPUT", "a volume WxHxD, such as 32x32x3", 3)
        self._close("INPUT")
        return Volume(depth, height, width)

    # item = group | layer
    def _item(self, depth: int) -> Layer | Repeat:
        token = self._peek()
        item = self._group(depth) if token.text == "[" else self._layer()
        self._places[id(item)] = (token.start, self._tokens[self._next - 1].end)
        if self._peek().text == "?":
            self._fail(
                "expected ? after POOL only: a pool is left out where it does not fit, "
                "anything else is written or not",
                self._peek(),
            )
        return item

    # group = "[" item { "->" item } "]" [ "*" number ]
    def _group(self, depth: int) -> Repeat:
        opening = self._take()
        if depth == MAX_DEPTH:
            self._fail(f"expected at most {MAX_DEPTH} groups inside one another", opening)
        items = [self._item(depth + 1)]
        while self._peek().text != "]":
            if not self._peek().kind:
                self._fail("expected ] for this [, got the end", opening)
            self._arrow()
            items.append(self._item(depth + 1))
        self._take()
        times = 1
        if self._peek().text == "*":
            self._take()
            times = self._number("how often, such as *2", "*")
        return Repeat(tuple(items), times)

    # layer = conv | "RELU" | pool | fc
    def _layer(self) -> Layer:
        token = self._peek()
        match token.text.upper() if token.kind == "word" else "":
            case "CONV":
                return self._conv()
            case "RELU":
                self._take()
                if self._peek().text == "(":
                    self._fail("expected RELU alone, it has no settings, got (", self._peek())
                return Relu()
            case "POOL":
                return self._pool()
            case "FC":
                self._open("FC")
                outputs = self._number("how many outputs", "FC")
                self._close("FC")
                with self._blamed(token):
                    return FullyConnected(outputs)
            case "SOFTMAX":
                self._fail(
                    "SOFTMAX is not written: every model computes it from its last layer; "
                    "leave it out",
                    token,
                )
            case "INPUT":
                self._fail("expected INPUT once, at the beginning", token)
            case _:
                self._fail(f"expected CONV, RELU, POOL, FC or a group [...], got {token}", token)

    # conv = "CONV" "(" number "," F "x" F { "," ( stride | padding ) } ")"
    # padding = "padding" ( number | "none" | "same" )
    def _conv(self) -> Conv:
        start = self._open("CONV")
        filters = self._number("how many filters", "CONV")
        self._comma("CONV", "a filter size, such as 3x3")
        size = self._square("CONV", "a filter size FxF, such as 3x3")
        settings: dict[str, int | None] = {}
        for setting in self._settings("CONV", ("stride", "padding")):
            words = ("none", "same") if setting == "padding" else ()
            word = self._peek().text.lower()
            if word in words:
                self._take()
                settings[setting] = {"none": 0, "same": None}[word]
            else:
                wanted = "zeros on each side, none or same" if words else "a number of pixels"
                settings[setting] = self._number(wanted, setting)
        self._close("CONV")
        with self._blamed(start):
            stride = settings.get("stride")
            return Conv(filters, size, 1 if stride is None else stride, settings.get("padding"))

    # pool = "POOL" "(" method "," ( F "x" F [ "," stride ] | "global" ) ")" [ "?" ]
    def _pool(self) -> Pool | GlobalAveragePool:
        start = self._open("POOL")
        token = self._peek()
        methods = [method for method in _METHODS if method == token.text.lower()]
        if not methods:
            known = f"{', '.join(_METHODS[:-1])} or {_METHODS[-1]}"
            self._fail(f"POOL: expected {known}, got {token}", token)
        self._take()
        self._comma("POOL", "a window size, such as 2x2, or global")
        if self._peek().text.lower() == "global":
            if methods != ["average"]:
                self._fail(f"POOL: expected average with global, got {methods[0]}", token)
            self._take()
            self._close("POOL")
            return GlobalAveragePool()
        size = self._square("POOL", "a window size FxF, such as 2x2, or global")
        stride = None
        for setting in self._settings("POOL", ("stride",)):
            stride = self._number("a number of pixels", setting)
        self._close("POOL")
        optional = self._peek().text == "?"
        if optional:
            self._take()
        with self._blamed(start):
            return Pool(methods[0], size, stride, optional)

    # { "," name value }, each name once; the caller takes the value
    def _settings(self, layer: str, names: tuple[str, ...]) -> Iterator[str]:
        seen: set[str] = set()
        while self._peek().text == ",":
            self._take()
            token = self._peek()
            name = token.text.lower()
            if name not in names:
                expected = " or ".join(names)
                self._fail(f"{layer}: expected {expected}, got {token}", token)
            if name in seen:
                self._fail(f"{layer}: expected {name} once, got it twice", token)
            seen.add(self._take().text.lower())
            yield name

    def _peek(self) -> Token:
        """The next token; one of kind "" after the last."""
        if self._next < len(self._tokens):
            return self._tokens[self._next]
        return end_of(self._text)

    def _take(self) -> Token:
        self._next += 1
        return self._tokens[self._next - 1]

    def _arrow(self) -> None:
        token = self._peek()
        if token.kind != "arrow":
            self._fail(f"expected -> before the next layer, got {token}", token)
        self._take()

    def _open(self, layer: str) -> Token:
        """Take a layer's name and its bracket; returns the name."""
        name = self._take()
        if self._peek().text != "(":
            self._fail(f"{layer} lacks its numbers: expected {_FORMS[layer]}", name)
        self._take()
        return name

    def _close(self, layer: str) -> None:
        token = self._peek()
        if token.text != ")":
            expected = ")" if layer in ("INPUT", "FC") else ", or )"
            self._fail(f"{layer}: expected {expected}, got {token}", token)
        self._take()

    def _comma(self, layer: str, before: str) -> None:
        token = self._peek()
        if token.text != ",":
            self._fail(f"{layer}: expected , and {before}, got {token}", token)
        self._take()

    def _number(self, what: str, where: str) -> int:
        token = self._peek()
        if token.kind != "number":
            self._fail_at_number(f"{where}: expected a number, {what}", token)
        return self._digits(self._take(), token.text)

    def _size(self, layer: str, what: str, count: int) -> list[int]:
        token = self._peek()
        sides = re.findall(r"\d+", token.text) if token.kind == "size" else []
        if len(sides) != count:
            self._fail_at_number(f"{layer}: expected {what}", token)
        self._take()
        return [self._digits(token, side) for side in sides]

    def _square(self, layer: str, what: str) -> int:
        token = self._peek()
        height, width = self._size(layer, what, 2)
        if height != width:
            self._fail(f"{layer}: expected {what}, as wide as high, got {token}", token)
        return width

    def _digits(self, token: Token, digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            self._fail(f"expected a number of at most {MAX_DIGITS} digits", token)
        return int(digits)

    def _fail_at_number(self, expected: str, token: Token) -> NoReturn:
        """Fail where a number belongs; a letter there is the general form of the notation."""
        letter = re.fullmatch(r"[A-Za-z](x[A-Za-z])*", token.text)
        hint = "; put a number in place of the letter" if letter else ""
        self._fail(f"{expected}, got {token}{hint}", token)

    @contextmanager
    def _blamed(self, start: Token) -> Iterator[None]:
        """Put what is wrong with a layer's numbers under the layer."""
        try:
            yield
        except ArchitectureError as error:
            end = self._tokens[self._next - 1].end
            raise NotationError(str(error), self._text, start.start, end) from error

    def _fail(self, reason: str, token: Token) -> NoReturn:
        raise NotationError(reason, self._text, token.start, token.end)
