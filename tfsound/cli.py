"""The command `tfsound`: a subcommand a job. Each is a function that notebooks call with the same arguments."""

import argparse
import importlib
import os
import sys

from tfsound import arguments
from tfsound.version import __version__

# subcommand: (module, function); imported only when asked for, because TensorFlow takes seconds.
COMMANDS = {
    "manifest": ("tfsound.datasets", "make_manifest"),
    "examples": ("tfsound.beam.examples", "make_examples"),
    "triplets": ("tfsound.beam.triplets", "sample_triplets"),
    "train": ("tfsound.training", "train"),
    "evaluate": ("tfsound.evaluation", "evaluate"),
    "export": ("tfsound.export.saved_model", "export"),
    "quickstart": ("tfsound.quickstart", "quickstart"),
}
_SUMMARIES = {
    "manifest": "list the clips of a data set on disk",
    "examples": "decode clips into TFRecords of mel energies (Beam)",
    "triplets": "sample triplets under semantic constraints (Beam)",
    "train": "train an encoder; resumes a run that was cut off",
    "evaluate": "score an embedding against the log-mel baseline",
    "export": "export a trained encoder as a SavedModel",
    "quickstart": "all of these, on your folder or on synthetic recordings",
}
# What a job raises when its input or its surroundings are at fault; anything else is a bug.
_EXPECTED = (ValueError, OSError, RuntimeError)
_EXIT_FAILED, _EXIT_INTERRUPTED = 1, 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tfsound",
        description="Learns sound embeddings from unlabelled recordings, measures them and serves them.",
        epilog="Exit codes: 0 done, 1 failed (the message says why), 2 wrong arguments, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"tfsound {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show the Python traceback of an error, for a bug report"
    )
    commands = "\n".join(f"  {name:<12}{_SUMMARIES[name]}" for name in COMMANDS)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of: " + ", ".join(COMMANDS))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description += f"\n\ncommands (tfsound COMMAND --help says more):\n{commands}"
    return parser


def command_parser(name: str) -> tuple[argparse.ArgumentParser, object]:
    """The parser of a subcommand and the function that it calls."""
    module, function_name = COMMANDS[name]
    function = getattr(importlib.import_module(module), function_name)
    parser = argparse.ArgumentParser(prog=f"tfsound {name}", description=arguments.summary(function))
    arguments.add_arguments(parser, function)
    return parser, function


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    # What TensorFlow says of devices it did not find would bury what the job says.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    split = next((i for i, argument in enumerate(argv) if argument in COMMANDS), len(argv))
    options = _parser().parse_args(argv[: split + 1])
    try:
        parser, function = command_parser(options.command)
        result = arguments.call(parser, function, argv[split + 1 :])
    except KeyboardInterrupt:
        print(f"\ntfsound {options.command}: interrupted; run it again to go on.", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except _EXPECTED as error:
        if options.traceback:
            raise
        print(f"tfsound {options.command}: {error}", file=sys.stderr)
        return _EXIT_FAILED
    print(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
