"""The command `tfsound`: a subcommand a job, each a function that notebooks call with the same arguments."""

import argparse
import contextlib
import importlib
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator

from tfsound import arguments
from tfsound.version import __version__

# subcommand: (module, function); imported only when asked for, because TensorFlow takes seconds.
COMMANDS = {
    "manifest": ("tfsound.datasets", "make_manifest"),
    "longtail": ("tfsound.datasets", "thin_manifest"),
    "examples": ("tfsound.beam.examples", "make_examples"),
    "triplets": ("tfsound.beam.triplets", "sample_triplets"),
    "pairs": ("tfsound.beam.pairs", "sample_pairs"),
    "instances": ("tfsound.beam.instances", "assign_instances"),
    "train": ("tfsound.training", "train"),
    "train-coincidence": ("tfsound.training", "train_coincidence"),
    "train-instances": ("tfsound.training", "train_instances"),
    "train-classifier": ("tfsound.training", "train_classifier"),
    "learn": ("tfsound.curriculum", "learn"),
    "finetune": ("tfsound.evaluation", "fine_tune"),
    "evaluate": ("tfsound.evaluation", "evaluate"),
    "evaluate-cross-modal": ("tfsound.evaluation", "evaluate_cross_modal"),
    "evaluate-classifier": ("tfsound.evaluation", "evaluate_classifier"),
    "questions": ("tfsound.active_learning", "questions"),
    "label": ("tfsound.labelling", "label"),
    "answers": ("tfsound.active_learning", "answers"),
    "export": ("tfsound.export.devices", "export_format"),
    "embed": ("tfsound.beam.embed", "embed"),
    "index": ("tfsound.search", "build_index"),
    "search": ("tfsound.search", "search_clip"),
    "serve-config": ("tfsound.export.serving", "serve_config"),
    "quickstart": ("tfsound.quickstart", "quickstart"),
    "reproduce": ("tfsound.reproduction", "reproduce"),
}
_SUMMARIES = {
    "manifest": "list the clips of a data set on disk",
    "longtail": "thin a manifest to a long tail of classes",
    "examples": "decode clips into TFRecords of mel energies (Beam)",
    "triplets": "sample triplets under semantic constraints (Beam)",
    "pairs": "sample pairs of what occurs together: sound and sound, sound and image (Beam)",
    "instances": "number the clips of some sets, to tell each from all others (Beam)",
    "train": "train an encoder on triplets; resumes a run that was cut off",
    "train-coincidence": "train encoders of sound and image on pairs; resumes, too",
    "train-instances": "train an encoder to tell every clip from all others; resumes, too",
    "train-classifier": "train a classifier on labels, fine-tuning an encoder; resumes, too",
    "learn": "a curriculum: sound and image, clusters, then a classifier",
    "finetune": "how fast encoders become classifiers: accuracy epoch by epoch, fold by fold",
    "evaluate": "score an embedding against the log-mel baseline",
    "evaluate-cross-modal": "find pictures by sound and sounds by picture",
    "evaluate-classifier": "score a classifier: mAP and mean d'",
    "questions": "choose which sounds to ask about: one of each cluster",
    "label": "answer questions by ear on a local page",
    "answers": "spread answers over clusters: labels to train on",
    "export": "export a trained model: SavedModel, LiteRT, ONNX",
    "embed": "embed the clips of a manifest with an export (Beam); resumes, too",
    "index": "make an index of embeddings, to search by sound",
    "search": "find the sounds that are nearest to one",
    "serve-config": "what TensorFlow Serving is started with, and the command",
    "quickstart": "all of these, on your folder or on synthetic recordings",
    "reproduce": "a paper's tables on a data set, its figures beside ours",
}
# Their package does without TensorFlow, and they import it when they run.
_IMPORT_TENSORFLOW_LATER = ("questions", "label", "index", "search")
# What a job raises when its input or its surroundings are at fault; anything else is a bug.
_EXPECTED = (ValueError, OSError, RuntimeError)
_PACKAGE_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_EXIT_FAILED, _EXIT_WRONG_ARGUMENTS, _EXIT_INTERRUPTED = 1, 2, 130
_TRACEBACK = "--traceback"
_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def _parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:<22}{_SUMMARIES[name]}" for name in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="tfsound",
        usage="tfsound [--traceback] COMMAND ...",
        description="Learns sound embeddings from unlabelled recordings, measures them and serves them.\n\n"
        f"commands (tfsound COMMAND --help says more):\n{commands}",
        epilog="Exit codes: 0 done, 1 failed (the message says why), 2 wrong arguments, 130 interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tfsound {__version__}")
    parser.add_argument(
        _TRACEBACK, action="store_true", help="show the Python traceback of an error, for a bug report"
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those above")
    rest = parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    rest.required = False  # else a missing COMMAND is reported as two missing arguments
    return parser


def command_parser(name: str) -> tuple[argparse.ArgumentParser, Callable]:
    """The parser of a subcommand and the function that it calls."""
    module, function_name = COMMANDS[name]
    with _quiet_import():
        function = getattr(importlib.import_module(module), function_name)
        if name in _IMPORT_TENSORFLOW_LATER:
            importlib.import_module("tensorflow")
    return arguments.make_parser(function, f"tfsound {name}"), function


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Keeps what TensorFlow and Beam print of absent GPUs and clouds from burying what a job says.

    TensorFlow's libraries write to the file descriptor itself while they are loaded, before any log level
    holds. A failed import still shows all of it. A log level of the user's own leaves everything as it is.
    """
    if _LOG_LEVEL in os.environ:
        yield
        return
    # The level holds from now on: 3 leaves out errors, too, which TensorFlow also raises as exceptions.
    os.environ[_LOG_LEVEL] = "3"
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def _own_warnings_in_words(command: str) -> Iterator[None]:
    """Shows what this package warns of as it shows errors; where in the code it was says nothing to users."""
    usual = warnings.formatwarning

    def format_warning(message, category, filename, lineno, line=None) -> str:
        if category is UserWarning and os.path.abspath(filename).startswith(_PACKAGE_FOLDER):
            return f"tfsound {command}: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = format_warning
    try:
        yield
    finally:
        warnings.formatwarning = usual


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv:
        _parser().print_help(sys.stderr)
        return _EXIT_WRONG_ARGUMENTS
    options = _parser().parse_args(argv)
    show_traceback = options.traceback or _TRACEBACK in options.arguments
    own_arguments = [argument for argument in options.arguments if argument != _TRACEBACK]
    try:
        parser, function = command_parser(options.command)
        with _own_warnings_in_words(options.command):
            result = arguments.call(parser, function, own_arguments)
    except KeyboardInterrupt:
        message = "interrupted; the same command again goes on, or starts anew where nothing was kept."
        print(f"\ntfsound {options.command}: {message}", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except _EXPECTED as error:
        if show_traceback:
            traceback.print_exc()
        else:
            print(f"tfsound {options.command}: {error}", file=sys.stderr)
        return _EXIT_FAILED
    print(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
