"""What the tests share: the real recordings, where they are at hand."""

import os
import pathlib
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

# A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = pathlib.Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real recordings beside the checkout; a test that asks for it is skipped without."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real recordings are not beside this checkout (../shared/data)")
    return SHARED_DATA
