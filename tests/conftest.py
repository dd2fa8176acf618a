"""What the tests share: the real recordings, where they are at hand; the tiny encoder by its name."""

import gc
import os
import pathlib
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

# Helpers that assert say what differs, as tests do.
pytest.register_assert_rewrite("device_steps", "processes", "training_runs")

# A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = pathlib.Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="module", autouse=True)
def settled():
    """What a module leaves behind, such as TensorFlow's graphs, is not searched for garbage ever after."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real recordings beside the checkout; a test that asks for it is skipped without."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real recordings are not beside this checkout (../shared/data)")
    return SHARED_DATA


@pytest.fixture(scope="module")
def tiny_encoder():
    """Makes `tiny.encoder` known as "tiny" while the tests of a module run."""
    import tiny  # here, for most tests need no TensorFlow

    from tfsound import networks

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.ENCODERS, "tiny", tiny.encoder)
        yield
