import functools
import importlib
import inspect
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tfsound import arguments, cli

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def code_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_of_the_readme_runs(tmp_path):
    # Fewer steps than README's, so that the suite stays short; everything else is as it stands there.
    code = "\n".join(code_blocks("python")).replace("num_steps=200", "num_steps=10")
    assert "num_steps=10" in code
    code += "\nassert embedding.shape == (1, 128)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "learned embedding" in done.stdout
    assert "exported demo/model/1" in done.stdout


def commands():
    """Every call of tfsound in a shell block, and those in the text that are given arguments."""
    for block in code_blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            yield from (part.strip() for part in line.split("&&") if part.strip().startswith("tfsound "))
    table = README.split("## ")[0]
    for call in re.findall(r"`(tfsound [a-z-]+ [^`]+)`", README.replace(table, "")):
        if "COMMAND" not in call:
            yield call.replace("...", "")


@pytest.mark.parametrize("call", sorted(set(commands())))
def test_every_call_of_the_readme_can_be_parsed(call):
    _, name, *words = shlex.split(call)
    parser, function = cli.command_parser(name)
    called = []

    def stand_in(**values):
        called.append(values)

    stand_in.__signature__ = inspect.signature(function)
    arguments.call(parser, functools.wraps(function)(stand_in), words)
    assert called


def test_every_command_of_the_readme_exists():
    table = re.findall(r"^\| `tfsound ([\w-]+)[^|]*\| `([\w.]+)` \|", README, re.MULTILINE)
    named = {command: name for command, name in table}
    assert named == {
        command: f"{module.removeprefix('tfsound.')}.{function}"
        for command, (module, function) in cli.COMMANDS.items()
    }


def test_every_function_of_the_equation_table_exists():
    section = README.split("## From the papers to the code")[1].split("\n## ")[0]
    names = re.findall(r"`([a-z_]+)\.(\w+)[`(]", section)
    assert len(names) >= 10
    for module, name in names:
        assert hasattr(importlib.import_module(f"tfsound.{module}"), name), f"{module}.{name}"


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"`?make ([a-z0-9-]+)", README))
    assert {"quickstart", "test", "lint", "bench"} <= targets
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
