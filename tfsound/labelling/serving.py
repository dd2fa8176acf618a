"""The job `tfsound label`: serves the page until it is stopped."""

import contextlib
import dataclasses
import getpass
import os
import socket
import sys
import webbrowser

from tfsound.active_learning import (
    ActiveLearningError,
    AnswerLog,
    QuestionSet,
    SoundClass,
    read_answers,
    read_classes,
    read_questions,
    write_classes,
)
from tfsound.active_learning.question_set import CLASSES_NAME
from tfsound.labelling import address
from tfsound.labelling.session import Session
from tfsound.labelling.sounds import SoundError, draw_spectrogram

_EXTRA = 'the page needs the packages of the extra "label"; pip install "tfsound[label]"'
_ALL_HOSTS = ("0.0.0.0", "::")


@dataclasses.dataclass(frozen=True)
class LabelRun:
    """What came of a run: how far the answers reach."""

    folder: str
    num_answered: int
    num_questions: int
    num_answers_of_this_run: int

    def __str__(self) -> str:
        text = (
            f"{self.num_answered} of {self.num_questions} questions are answered, "
            f"{self.num_answers_of_this_run} answers were given in this run -> {self.folder}"
        )
        if self.num_answered < self.num_questions:
            text += "\nRun the same command again to go on."
        return text


def label(
    questions: str,
    *,
    classes: str = "",
    annotator: str = "",
    host: str = "127.0.0.1",
    port: int = 0,
    token: str = "",
    allow_new_classes: bool = False,
    allow_other_machines: bool = False,
    open_browser: bool = False,
) -> LabelRun:
    """Serves a page on which a person answers questions by ear, until it is stopped with Ctrl-C.

    Every answer is on disk before the next question is shown; the same command goes on where the last one
    ended.

    Args:
      questions: a folder that `tfsound questions` made.
      classes: the classes to choose from, as a file, or the folder of AudioSet's; it becomes the list of the
        questions. By default they keep the one they have.
      annotator: who answers, kept with every answer; by default the name you are logged in with.
      host: to listen on; any but this machine's own needs --allow-other-machines.
      port: 0 takes a free one, or that of a run that was killed.
      token: the secret in the address, 16 letters and digits at least, visible to whoever may list this
        machine's processes; by default a random one, or that of a run that was killed.
      allow_new_classes: let answers add classes to the list.
      allow_other_machines: let whoever has the address answer from elsewhere; nothing is encrypted on the
        way.
      open_browser: open the page in the browser.

    Returns:
      How far the answers reach.

    Raises:
      ActiveLearningError: the folder is no set of questions, its answers or the classes cannot be used, or
        another run has it open.
      ValueError: another host without allow_other_machines; a token or a port that is none.
      RuntimeError: the packages of the extra `label` are not installed.
      OSError: the port cannot be had.
    """
    try:
        import uvicorn

        from tfsound.labelling import application, guard
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing == "tfsound":
            raise
        raise RuntimeError(f"{missing} is not installed: {_EXTRA}.") from error
    if not address.is_loopback(host):
        _require_allowed(host, allow_other_machines)
    if classes:
        _replace_classes(questions, classes, keep_answered=allow_new_classes)
    with AnswerLog(questions) as log:
        session = Session(
            read_questions(questions),
            log,
            annotator=annotator or _login_name(),
            allow_new_classes=allow_new_classes,
        )
        _draw_first(session.question_set)
        listener, where = address.listen(questions, host=host, port=port, token=token)
        app = application.make_application(session, token=where.token)
        app = guard.Guard(app, token=where.token, host=host, port=where.port)
        # uvicorn's own log_config would close the logging handlers of everyone else in this process.
        config = uvicorn.Config(
            app, log_config=None, access_log=False, http="h11", lifespan="off", log_level="warning",
            proxy_headers=False, server_header=False, timeout_graceful_shutdown=2, ws="none",
        )  # fmt: skip
        with listener:
            _announce(where, session)
            if open_browser:
                webbrowser.open(str(where))
            with contextlib.suppress(KeyboardInterrupt):  # the way in which it is meant to end
                uvicorn.Server(config).run(sockets=[listener])
        address.forget(questions)
        return LabelRun(
            questions, session.num_answered, session.num_questions, session.num_answers_of_this_run
        )


def _require_allowed(host: str, allow_other_machines: bool) -> None:
    if not allow_other_machines:
        raise ValueError(
            f"host {host} lets other machines reach the page, expected 127.0.0.1; pass "
            "--allow-other-machines if that is meant."
        )
    print(
        f"tfsound label: other machines can reach this page on {host}. Nothing is encrypted: whoever sees "
        "the address on its way can hear the sounds and answer.",
        file=sys.stderr,
    )


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry for this user, as in some containers
        return ""


def _replace_classes(questions: str, classes: str, *, keep_answered: bool) -> None:
    """Makes a list that of the questions, so that whoever reads the answers knows their classes.

    Args:
      keep_answered: keep classes of the old list that answers name; else they are an error.

    Raises: ActiveLearningError where the new list lacks a class that was answered already.
    """
    replacement = read_classes(classes)
    with AnswerLog(questions):
        answered = {name for answer in read_answers(questions) for name in answer.labels}
        answered -= {sound_class.name for sound_class in replacement}
        lost = [each for each in read_questions(questions).classes if each.name in answered]
        if lost and not keep_answered:
            raise ActiveLearningError(
                f"{classes} lacks {lost[0].name!r}, which {questions} holds answers with; add it to the "
                "list, or pass --allow-new-classes to keep it."
            )
        kept = [SoundClass(each.name, each.display_name) for each in lost]  # their parents may be gone
        write_classes(os.path.join(questions, CLASSES_NAME), [*replacement, *kept])


def _draw_first(question_set: QuestionSet) -> None:
    """Lets TensorFlow set itself up before the page is there: its first picture takes longest."""
    for question in question_set.questions[:1]:
        with contextlib.suppress(SoundError):  # the page says it where the sound is asked for
            draw_spectrogram(question_set, question)


def _announce(where: address.Address, session: Session) -> None:
    shown = dataclasses.replace(where, host=socket.gethostname()) if where.host in _ALL_HOSTS else where
    print(
        f"{session.num_answered} of {session.num_questions} questions are answered. Open this address to go "
        f"on, and stop with Ctrl-C:\n\n  {shown}\n",
        flush=True,
    )
