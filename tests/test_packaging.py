import configparser
import pathlib
import shutil
import subprocess
import sys
import zipfile

import tfsound

ROOT = pathlib.Path(__file__).parent.parent


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_package_is_listed():
    listed = set(setup_cfg()["options"]["packages"].split())
    found = {"tfsound.beam", "tfsound.export"}
    for path in (ROOT / "tfsound").rglob("__init__.py"):
        found.add(".".join(path.parent.relative_to(ROOT).parts))
    assert listed == found


def copy_of_checkout(folder):
    """A new folder with all that a package is built from."""
    folder.mkdir()
    for name in ("tfsound", "beam", "export"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_a_wheel_holds_every_module_and_page(tmp_path):
    # A copy: what earlier builds left beside the sources would be packed, too.
    source = copy_of_checkout(tmp_path / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("tfsound-*.whl")
    assert wheel.name.startswith(f"tfsound-{tfsound.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("tfsound/")}
    files = [path for path in (ROOT / "tfsound").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    expected = {str(path.relative_to(ROOT)) for path in files}
    for folder in ("beam", "export"):
        expected |= {f"tfsound/{folder}/{path.name}" for path in (ROOT / folder).glob("*.py")}
    assert packed == expected
