"""The job `answers`: from answers to labels of windows.

Source: Jansen et al. 2020, section 3.3.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence

from tfsound import resumption, window_labels
from tfsound.active_learning import label_file
from tfsound.active_learning.answer_log import Answer
from tfsound.active_learning.gathering import gather_answers
from tfsound.active_learning.output import pending_folder
from tfsound.active_learning.propagation import ON_CONFLICT, contradict, propagate
from tfsound.active_learning.question_set import QuestionSet, read_questions, read_windows
from tfsound.records import ActiveLearningError
from tfsound.window_labels import NEGATIVE, POSITIVE, UNCERTAIN, WindowKey


@dataclasses.dataclass(frozen=True)
class LabelSummary:
    """What became of the answers.

    Attributes:
      output: the folder of labels.
      num_questions, num_answered: how many windows were asked about, and of how many something was said.
      num_windows, num_labelled_windows: all windows, and those of which something is known.
      num_positive, num_negative, num_uncertain: these add up to `num_labelled_windows`.
      num_direct: how many of them were asked about themselves.
      conflicts: the questions that annotators answered differently.
    """

    output: str
    num_questions: int
    num_answered: int
    num_windows: int
    num_labelled_windows: int
    num_positive: int
    num_negative: int
    num_uncertain: int
    num_direct: int
    conflicts: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.num_answered:,} of {self.num_questions:,} questions answered; "
            f"{self.num_labelled_windows:,} of {self.num_windows:,} windows labelled: {self.num_positive:,} "
            f"positive, {self.num_negative:,} negative, {self.num_uncertain:,} uncertain; "
            f"{self.num_direct:,} of them answered directly -> {self.output}"
        ]
        if self.conflicts:
            some = ", ".join(self.conflicts[:5]) + (", ..." if len(self.conflicts) > 5 else "")
            lines.append(f"contradicting answers to {len(self.conflicts)} questions: {some}")
        return "\n".join(lines)


def answers(
    questions: tuple[str, ...],
    output: str,
    *,
    annotations: tuple[str, ...] = (),
    on_conflict: str = "uncertain",
    propagate_none: bool = False,
    overwrite: bool = False,
) -> LabelSummary:
    """Spreads answers over the clusters that were asked about: labels of windows, to train a classifier on.

    Several folders of questions are merged: copies that several annotators answered, or rounds that came one
    after another. A window has the label of the last folder that tells of its cluster; what was answered
    about a window itself stands over all.

    Args:
      questions: the folders of questions, with the answers in them.
      output: the folder to make.
      annotations: files with answers that were given elsewhere: CSV, JSON Lines or an export of Label Studio.
      on_conflict: where annotators contradict each other, the window is `uncertain`, or the `last` answer
        counts.
      propagate_none: whether the cohabitants of a window that is none of the classes are negative, too.
      overwrite: replace a finished output.

    Returns:
      How much came of it.

    Raises:
      ActiveLearningError: no answer at all; a folder, a line or a file that cannot be used; an output that
        exists. InUseError: another process makes it. OSError: a file of annotations cannot be read.
    """
    if on_conflict not in ON_CONFLICT:
        raise ActiveLearningError(
            f"on_conflict must be one of {', '.join(ON_CONFLICT)}, got {on_conflict!r}."
        )
    if isinstance(questions, str):
        questions = (questions,)
    question_sets = [read_questions(folder) for folder in questions]
    if not question_sets:
        raise ActiveLearningError("no folder of questions was given; name at least one.")
    asked = gather_answers(question_sets, annotations)
    num_questions = len({question.key for set_ in question_sets for question in set_.questions})
    if not asked:
        raise ActiveLearningError(
            f"none of the {num_questions} questions has an answer; answer some with `tfsound label`."
        )
    class_names = tuple(dict.fromkeys(name for set_ in question_sets for name in set_.class_names))
    conflicts = tuple(found[0].question_id for found in asked.values() if contradict(found))
    with pending_folder(output, window_labels.INFO_NAME, overwrite=overwrite) as folder:
        records = _records(question_sets, asked, on_conflict=on_conflict, propagate_none=propagate_none)
        counts = _write_records(os.path.join(folder, window_labels.LABELS_NAME), records)
        counts |= {
            "num_questions": num_questions,
            "num_answered": len(asked),
            "num_windows": _num_windows(question_sets),
        }  # fmt: skip
        settings = {
            "annotations": list(annotations), "on_conflict": on_conflict, "propagate_none": propagate_none
        }  # fmt: skip
        fields = label_file.summary_fields(class_names, questions, counts, settings)
        fields["conflicts"] = list(conflicts)
        resumption.write_json(os.path.join(folder, window_labels.INFO_NAME), fields)
    return LabelSummary(output=output, conflicts=conflicts, **counts)


def _num_windows(question_sets: Sequence[QuestionSet]) -> int:
    """How many different windows there are."""
    if len(question_sets) == 1:
        return question_sets[0].num_windows
    return len({key for question_set in question_sets for key in read_windows(question_set).window_keys()})


def _records(
    question_sets: Sequence[QuestionSet],
    asked: Mapping[WindowKey, Sequence[Answer]],
    *,
    on_conflict: str,
    propagate_none: bool,
) -> Iterator[dict]:
    """Lines of `labels.jsonl`, the last set first: what it tells of a window stands."""
    decided: set[WindowKey] = set()
    for number in reversed(range(len(question_sets))):
        windows = read_windows(question_sets[number])
        keys = windows.window_keys()
        propagation = propagate(
            windows.cluster,
            {window: asked[key] for window, key in enumerate(keys) if key in asked},
            on_conflict=on_conflict,
            propagate_none=propagate_none,
        )
        for window, (key, cluster) in enumerate(zip(keys, windows.cluster.tolist(), strict=True)):
            label, is_direct = propagation.label(window, cluster)
            if label is None or key in decided:
                continue
            if len(question_sets) > 1:
                decided.add(key)
            yield label_file.label_record(windows, window, label, is_direct=is_direct, question_set=number)


def _write_records(path: str, records: Iterator[dict]) -> dict[str, int]:
    """Writes lines, and counts what they say."""
    kinds = {POSITIVE: 0, NEGATIVE: 0, UNCERTAIN: 0}
    num_direct = 0
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            kinds[record["kind"]] += 1
            num_direct += record["source"] == window_labels.DIRECT
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return {
        "num_labelled_windows": sum(kinds.values()),
        "num_direct": num_direct,
        **{f"num_{kind}": count for kind, count in kinds.items()},
    }
