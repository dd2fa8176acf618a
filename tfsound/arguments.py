"""Command lines from functions: one signature and docstring serve a notebook and a shell alike.

A parameter without a default is a positional argument, one with a default is an option of the same name;
its help is the entry under `Args:` of the function's docstring. `beam_flags` takes what is left over.
"""

import argparse
import inspect
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Sequence

_BEAM_FLAGS = "beam_flags"
_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT"}


def summary(function: Callable) -> str:
    """The first line of a function's docstring."""
    return (inspect.getdoc(function) or "").split("\n", 1)[0]


def _description(function: Callable) -> str:
    """What a function's docstring says before its sections, wrapped for the terminal."""
    text = re.split(r"^(?:Args|Returns|Raises):$", inspect.getdoc(function) or "", flags=re.MULTILINE)[0]
    width = shutil.get_terminal_size().columns - 2
    return "\n\n".join(textwrap.fill(" ".join(part.split()), width) for part in text.strip().split("\n\n"))


def _entries(function: Callable) -> dict[str, str]:
    """The entries under `Args:` of a Google-style docstring, white space folded."""
    doc = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    entries: dict[str, str] = {}
    name = None
    for line in textwrap.dedent(section.group(1)).splitlines() if section else []:
        entry = re.match(r"(\w+): (.*)", line)
        if entry:
            name = entry.group(1)
            entries[name] = entry.group(2).strip()
        elif name:
            entries[name] = f"{entries[name]} {line.strip()}".strip()
    return entries


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """The parameters that a command line has arguments for, in their order."""
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if name != _BEAM_FLAGS}


def _plain_type(annotation) -> tuple[type, bool]:
    """The scalar type of an annotation, and whether it is a sequence of them."""
    if isinstance(annotation, types.UnionType):
        annotation = next(member for member in typing.get_args(annotation) if member is not type(None))
    if typing.get_origin(annotation) in (tuple, list):
        return typing.get_args(annotation)[0], True
    return annotation, False


def _shown_default(default) -> str:
    if default in ("", (), None):
        return ""
    values = default if isinstance(default, tuple | list) else [default]
    return f" (default: {' '.join(str(value) for value in values)})"


def add_arguments(parser: argparse.ArgumentParser, function: Callable) -> None:
    """Gives `parser` one argument for each parameter of `function`.

    Raises:
      TypeError: a parameter without an entry under `Args:`, so that no option goes without help.
    """
    entries = _entries(function)
    for name, parameter in _parameters(function).items():
        if name not in entries:
            raise TypeError(f"{function.__qualname__} does not describe {name!r} under `Args:`.")
        scalar, is_sequence = _plain_type(parameter.annotation)
        nargs = {"nargs": "+"} if is_sequence else {}
        help_text = entries[name].replace("%", "%%")
        if parameter.default is inspect.Parameter.empty:
            parser.add_argument(name, type=scalar, metavar=name.upper(), help=help_text, **nargs)
            continue
        option = "--" + name.replace("_", "-")
        if scalar is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        else:
            kind = {"type": scalar, "metavar": _METAVARS[scalar], **nargs}
        action = parser.add_argument(option, default=parameter.default, **kind)
        # Set afterwards, because some versions of BooleanOptionalAction add a default of their own.
        action.help = help_text + _shown_default(parameter.default).replace("%", "%%")


def make_parser(function: Callable, prog: str) -> argparse.ArgumentParser:
    """The parser of the command `prog` that calls `function`.

    Its usage names the positional arguments first: an option that takes several values would swallow them.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=_description(function),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,  # else a flag of Beam's could be taken for the beginning of ours
    )
    add_arguments(parser, function)
    positional = [
        name.upper() + ("..." if _plain_type(parameter.annotation)[1] else "")
        for name, parameter in _parameters(function).items()
        if parameter.default is inspect.Parameter.empty
    ]
    parser.usage = " ".join([prog, *positional, "[options]"])
    return parser


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Leaves room for the names of options, so that most help stands beside them."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)


def call(parser: argparse.ArgumentParser, function: Callable, argv: Sequence[str] | None):
    """Parses `argv` with `parser` and calls `function` with what it gave.

    What is left over goes to `beam_flags` where the function has that parameter; elsewhere it is an error
    of the command line.
    """
    # Intermixed: positional arguments may stand before and behind options.
    namespace, left_over = parser.parse_known_intermixed_args(argv)
    values = {}
    for name, parameter in _parameters(function).items():
        value, kind = getattr(namespace, name), typing.get_origin(parameter.annotation)
        values[name] = kind(value) if kind in (tuple, list) else value
    if _BEAM_FLAGS in inspect.signature(function).parameters:
        values[_BEAM_FLAGS] = tuple(left_over)
    elif left_over:
        parser.error(f"unrecognized arguments: {' '.join(left_over)}")
    return function(**values)
