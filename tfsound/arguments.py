"""Command lines from functions: one signature and docstring serve a notebook and a shell alike.

A parameter without a default is a positional argument, one with a default is an option of the same name;
its help is the entry under `Args:` of the function's docstring. `beam_flags` takes what is left over.
"""

import argparse
import inspect
import re
import types
import typing
from collections.abc import Callable

_BEAM_FLAGS = "beam_flags"


def _descriptions(function: Callable) -> dict[str, str]:
    """The entries under `Args:` of a Google-style docstring, white space folded."""
    doc = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    entries: dict[str, str] = {}
    names: list[str] = []
    for line in section.group(1).splitlines() if section else []:
        entry = re.match(r"^  {0,2}(\w+(?:, \w+)*): (.*)", line)
        if entry and len(line) - len(line.lstrip()) <= 4:
            names = entry.group(1).split(", ")
            for name in names:
                entries[name] = entry.group(2).strip()
        elif names:
            for name in names:
                entries[name] = f"{entries[name]} {line.strip()}".strip()
    return entries


def _plain_type(annotation) -> tuple[type, bool]:
    """The scalar type of an annotation, and whether it is a sequence of them."""
    if isinstance(annotation, types.UnionType):
        annotation = next(member for member in typing.get_args(annotation) if member is not type(None))
    if typing.get_origin(annotation) in (tuple, list):
        return typing.get_args(annotation)[0], True
    return annotation, False


def add_arguments(parser: argparse.ArgumentParser, function: Callable) -> None:
    """Gives `parser` one argument for each parameter of `function`.

    Raises:
      TypeError: a parameter without an entry under `Args:`, so that no option goes without help.
    """
    descriptions = _descriptions(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if name == _BEAM_FLAGS:
            continue
        if name not in descriptions:
            raise TypeError(f"{function.__qualname__} does not describe {name!r} under `Args:`.")
        scalar, is_sequence = _plain_type(parameter.annotation)
        help_text = descriptions[name].replace("%", "%%")
        if parameter.default is inspect.Parameter.empty:
            parser.add_argument(name, type=scalar, nargs="+" if is_sequence else None, help=help_text)
            continue
        default = parameter.default
        shown = "" if default in ("", (), None) else f" (default: {default})"
        option = "--" + name.replace("_", "-")
        if scalar is bool:
            parser.add_argument(
                option, action=argparse.BooleanOptionalAction, default=default, help=help_text + shown
            )
        elif is_sequence:
            parser.add_argument(
                option, type=scalar, nargs="+", default=default, help=help_text + shown,
                metavar=name.upper(),
            )  # fmt: skip
        else:
            parser.add_argument(option, type=scalar, default=default, help=help_text + shown)


def summary(function: Callable) -> str:
    """The first line of a function's docstring."""
    return (inspect.getdoc(function) or "").split("\n", 1)[0]


def call(parser: argparse.ArgumentParser, function: Callable, argv: list[str] | None):
    """Parses `argv` with `parser` and calls `function` with what it gave.

    What is left over goes to `beam_flags` where the function has that parameter; elsewhere it is an error
    of the command line.
    """
    names = inspect.signature(function).parameters
    namespace, left_over = parser.parse_known_args(argv)
    values = {name: getattr(namespace, name) for name in names if name != _BEAM_FLAGS}
    if _BEAM_FLAGS in names:
        values[_BEAM_FLAGS] = tuple(left_over)
    elif left_over:
        parser.error(f"unrecognized arguments: {' '.join(left_over)}")
    return function(**values)
