"""Tests of tfsound.arguments: what a function's signature and docstring become on the command line."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsound import arguments


def job(
    sources: list[str],
    output: str,
    *,
    count: int = 3,
    rate: float = 0.1,
    topline: float | None = None,
    name: str = "",
    folds: tuple[str, ...] = (),
    constraints: tuple[str, ...] = ("proximity:10", "noise"),
    fast: bool = True,
    overwrite: bool = False,
) -> dict:
    """Does a job.

    It does it in 100% of the cases, and this paragraph goes on
    to a second line.

    Args:
      sources: where from.
      output: where to.
      count: how many: in all,
        exactly.
      rate: 5% or so.
      topline: if known.
      name: of it.
      folds: which.
      constraints: which, too.
      fast: not slowly.
      overwrite: replace.

    Returns:
      What it was called with.
    """
    return dict(locals())


def beam_job(source: str, *, seed: int = 0, beam_flags: tuple[str, ...] = ()) -> tuple:
    """Does a job on Beam.

    Args:
      source: where from.
      seed: of the draws.
    """
    return source, seed, beam_flags


def run(function, *argv):
    return arguments.call(arguments.make_parser(function, "tool job"), function, list(argv))


DEFAULTS = job(["a"], "b")


def test_defaults_are_the_functions():
    assert run(job, "a", "b") == DEFAULTS


def test_types_are_those_of_the_signature():
    argv = (
        "--count 4 --rate 1e-3 --topline 0.5 --name x --folds 1 2 --constraints noise --no-fast --overwrite"
    )
    assert run(job, "a", "b", "c", *argv.split()) == {
        "sources": ["a", "b"],
        "output": "c",
        "count": 4,
        "rate": 0.001,
        "topline": 0.5,
        "name": "x",
        "folds": ("1", "2"),
        "constraints": ("noise",),
        "fast": False,
        "overwrite": True,
    }


@given(st.lists(st.sampled_from(["--count=7", "--name=x", "--fast"]), max_size=3), st.data())
def test_positional_arguments_may_stand_among_options(options, data):
    argv = list(options)
    positions = sorted(data.draw(st.integers(0, len(options))) for _ in range(3))
    for number, position in enumerate(positions):
        argv.insert(position + number, "abc"[number])
    result = run(job, *argv)
    assert (result["sources"], result["output"]) == (["a", "b"], "c")
    assert result["count"] == (7 if "--count=7" in options else 3)


def test_help_says_everything_once(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as exit_info:
        run(job, "--help")
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(
        "usage: tool job SOURCES... OUTPUT [options]\n\nDoes a job.\n\nIt does it in 100% of "
    )
    assert "goes on to a second line." in text
    lines = {
        line.split()[0].rstrip(","): " ".join(line.split()) for line in text.splitlines() if line.strip()
    }
    assert lines["SOURCES"] == "SOURCES where from."
    assert lines["--count"] == "--count INT how many: in all, exactly. (default: 3)"
    assert lines["--rate"] == "--rate FLOAT 5% or so. (default: 0.1)"
    assert lines["--topline"] == "--topline FLOAT if known."
    assert lines["--name"] == "--name TEXT of it."
    assert lines["--folds"] == "--folds TEXT [TEXT ...] which."
    assert " which, too. (default: proximity:10 noise)\n" in text
    assert lines["--fast"] == "--fast, --no-fast not slowly. (default: True)"
    assert lines["--overwrite"] == "--overwrite, --no-overwrite replace. (default: False)"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a"], "arguments are required: .*OUTPUT"),
        ([], "arguments are required: SOURCES, OUTPUT"),
        (["a", "b", "--wrong"], "unrecognized arguments: --wrong"),
        (["a", "b", "--coun", "4"], "unrecognized arguments: --coun"),  # no abbreviations
        (["a", "b", "--count", "many"], "argument --count: invalid int value: 'many'"),
        (["a", "b", "--count"], "argument --count: expected one argument"),
    ],
)
def test_wrong_command_lines(capsys, argv, message):
    with pytest.raises(SystemExit) as exit_info:
        run(job, *argv)
    assert exit_info.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("usage: tool job SOURCES... OUTPUT [options]\n")
    with pytest.raises(ValueError, match=message):
        raise ValueError(stderr)


def test_what_is_left_over_goes_to_beam():
    flags = ("--project=p", "--se=x", "--streaming")
    assert run(beam_job, "--project=p", "a", "--seed", "4", "--se=x", "--streaming") == ("a", 4, flags)
    assert run(beam_job, "a") == ("a", 0, ())


def test_a_parameter_without_help_is_refused():
    def undocumented(path: str, seed: int = 0):
        """Does it.

        Args:
          path: where.
        """

    with pytest.raises(TypeError, match="undocumented does not describe 'seed' under `Args:`"):
        arguments.make_parser(undocumented, "tool")
    with pytest.raises(TypeError, match="does not describe 'path'"):
        arguments.add_arguments(argparse.ArgumentParser(), lambda path: None)


def test_summary():
    assert arguments.summary(job) == "Does a job."
    assert arguments.summary(lambda: None) == ""
