"""Tests of the command `tfsound`: its help, exit codes and messages, and what it keeps from being printed."""

import importlib
import inspect
import os
import subprocess
import sys

import pytest

from tests import active_learning_sets as sets
from tfsound import cli
from tfsound.version import __version__


def tfsound(*argv, cwd=None):
    """Runs the command in a process of its own, as a shell would."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-m", "tfsound.cli", *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def function_of(command):
    module, name = cli.COMMANDS[command]
    return getattr(importlib.import_module(module), name)


def exit_code(*argv):
    try:
        return cli.main(list(argv))
    except SystemExit as error:
        return error.code


@pytest.fixture
def job(monkeypatch):
    """Makes the subcommand `train` a job that does what is assigned to `job.does`."""

    class Job:
        does = staticmethod(lambda path: None)

    def work(path: str = "", *, seed: int = 0):
        """Works.

        Args:
          path: where.
          seed: of it.
        """
        return Job.does(path)

    monkeypatch.setitem(cli.COMMANDS, "train", ("tests_fake_module", "work"))
    monkeypatch.setitem(sys.modules, "tests_fake_module", type("Module", (), {"work": staticmethod(work)}))
    return Job


def raises(error):
    def fail(_):
        raise error

    return fail


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_options_are_the_parameters_of_the_function(command):
    parser, function = cli.command_parser(command)
    assert function is function_of(command)
    parameters = dict(inspect.signature(function).parameters)
    parameters.pop("beam_flags", None)
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    assert list(actions) == list(parameters)
    for name, parameter in parameters.items():
        action = actions[name]
        assert len(action.help) > 5
        if parameter.default is inspect.Parameter.empty:
            assert not action.option_strings
        else:
            assert action.option_strings[0] == "--" + name.replace("_", "-")
            assert action.default == parameter.default


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_subcommand(capsys, command):
    assert exit_code(command, "--help") == 0
    text = capsys.readouterr().out
    for name, parameter in inspect.signature(function_of(command)).parameters.items():
        if name != "beam_flags":
            is_option = parameter.default is not inspect.Parameter.empty
            assert ("--" + name.replace("_", "-") if is_option else name.upper()) in text
    assert "(default: False) (default: False)" not in " ".join(text.split())


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_results_are_written_to_be_read(command):
    """The command prints what the function returns: its own words, not all its fields."""
    result = inspect.signature(function_of(command)).return_annotation
    assert result.__str__ is not object.__str__


def test_every_command_has_a_summary():
    assert list(cli._SUMMARIES) == list(cli.COMMANDS)


@pytest.mark.parametrize("argv", [["--help"], ["--version"], [], ["wrong"], ["manifest", "--help"]])
def test_what_needs_no_tensorflow_does_not_import_it(argv):
    code = (
        "import contextlib, sys\n"
        "from tfsound import cli\n"
        f"with contextlib.suppress(SystemExit): cli.main({argv})\n"
        "print(sorted({'tensorflow', 'keras', 'apache_beam'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_version(capsys):
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"tfsound {__version__}\n"


def test_alone_it_helps(capsys):
    assert exit_code() == 2
    stderr = capsys.readouterr().err
    for command, summary in cli._SUMMARIES.items():
        assert f"  {command:<22}{summary}\n" in stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "invalid choice: 'trian' (choose from "),
        (["--traceback"], "required: COMMAND\n"),
        (["--wrong", "train"], "unrecognized arguments: --wrong"),
        (["train", "--wrong"], "tfsound train: error: unrecognized arguments: --wrong"),
    ],
)
def test_wrong_arguments(capsys, job, argv, message):
    assert exit_code(*argv) == 2
    assert message in capsys.readouterr().err


def test_the_result_is_printed(capsys, job):
    job.does = lambda path: f"done with {path}"
    assert exit_code("train", "--path", "evaluate") == 0  # an argument may have the name of a command
    assert capsys.readouterr().out == "done with evaluate\n"
    assert exit_code("--traceback", "train", "--path", "x") == 0


@pytest.mark.parametrize("error", [ValueError("bad"), OSError("bad"), RuntimeError("bad")])
def test_a_failure_is_one_line(capsys, job, error):
    job.does = raises(error)
    assert exit_code("train") == 1
    assert capsys.readouterr().err == "tfsound train: bad\n"


@pytest.mark.parametrize("argv", [["--traceback", "train"], ["train", "--traceback"]])
def test_a_failure_with_its_traceback(capsys, job, argv):
    job.does = raises(ValueError("bad"))
    assert exit_code(*argv) == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("Traceback (most recent call last):")
    assert stderr.endswith("ValueError: bad\n")


def test_a_bug_is_not_hidden(job):
    job.does = raises(KeyError("bug"))
    with pytest.raises(KeyError, match="bug"):
        cli.main(["train"])


def test_an_interruption(capsys, job):
    job.does = raises(KeyboardInterrupt())
    assert exit_code("train") == 130
    assert "tfsound train: interrupted; the same command again goes on, or" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["export", "missing", "out"], "tfsound export: missing holds no trained encoder"),
        (["examples", "missing.csv", "out"], "tfsound examples: "),
        (["questions", "missing", "run", "out"], "tfsound questions: missing is not a folder"),
    ],
)
def test_nothing_buries_the_message(tmp_path, argv, message):
    done = tfsound(*argv, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert "missing" in done.stderr


def test_a_warning_of_ours_is_one_line(tmp_path):
    sets.write_set(tmp_path / "q", [0, 1])
    sets.answer(tmp_path / "q", ("q0001", ("dog",)), ("q0002", ("cat",)))
    log = tmp_path / "q" / "answers.jsonl"
    log.write_text(log.read_text()[:-20])
    done = tfsound("answers", "q", "labels", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == (
        "tfsound answers: q/answers.jsonl, line 2: the last line is only a part, as a crash leaves it; it is "
        "left out.\n"
    )


def test_a_failed_import_shows_what_was_held_back(capfd, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)

    def load(noise, error=None):
        with cli._quiet_import():
            os.write(2, noise)
            if error:
                raise error

    load(b"noise")
    assert capfd.readouterr().err == ""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    with pytest.raises(ImportError, match="no TensorFlow"):
        load(b"the reason", ImportError("no TensorFlow"))
    assert capfd.readouterr().err == "the reason"


def test_a_log_level_of_the_users_is_respected(capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with cli._quiet_import():
        os.write(2, b"wanted")
    assert capfd.readouterr().err == "wanted"
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
