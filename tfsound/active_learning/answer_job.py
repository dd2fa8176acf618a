"""The job `answers`: from answers to labels of windows.

Source: Jansen et al. 2020, section 3.3.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tfsound import resumption, window_labels
from tfsound.active_learning import label_file
from tfsound.active_learning.answer_log import Answer
from tfsound.active_learning.gathering import gather_answers
from tfsound.active_learning.output import pending_folder
from tfsound.active_learning.propagation import ON_CONFLICT, contradict, label_of_answers, propagate
from tfsound.active_learning.question_set import QuestionSet, WindowClusters, read_questions, read_windows
from tfsound.active_learning.windows import numbered
from tfsound.records import ActiveLearningError, shown
from tfsound.window_labels import NEGATIVE, POSITIVE, UNCERTAIN, WindowKey

_NUM_SHOWN = 5  # questions of which the summary says more


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
      changed: the questions that one annotator answered differently from one time to another.
      differences: of each of both, who said what, and what was used, in a sentence.
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
    changed: tuple[str, ...]
    differences: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.num_answered:,} of {self.num_questions:,} questions answered; "
            f"{self.num_labelled_windows:,} of {self.num_windows:,} windows labelled: {self.num_positive:,} "
            f"positive, {self.num_negative:,} negative, {self.num_uncertain:,} uncertain; "
            f"{self.num_direct:,} of them answered directly -> {self.output}"
        ]
        for what, found in (("contradicting", self.conflicts), ("changed", self.changed)):
            if found:
                some = ", ".join(found[:_NUM_SHOWN]) + (", ..." if len(found) > _NUM_SHOWN else "")
                lines.append(f"{what} answers to {len(found)} questions: {some}")
        lines += [f"  {sentence}" for sentence in self.differences[:_NUM_SHOWN]]
        if len(self.differences) > _NUM_SHOWN:
            lines.append(f"  ... (all are in {os.path.join(self.output, window_labels.INFO_NAME)})")
        return "\n".join(lines)


def _difference(answers: Sequence[Answer], on_conflict: str) -> str:
    """What annotators said of a window who do not agree, and what was used."""
    ordered = sorted(answers, key=lambda answer: answer.time)
    said = ", ".join(f"{shown(answer.annotator)} said {_words(answer)}" for answer in ordered)
    label = label_of_answers(answers, on_conflict)
    if label.kind == UNCERTAIN:
        used = "none is used, for they contradict each other (--on-conflict last uses the last)"
    else:
        used = f"{_words(label.answers[0])} is used, the last (--on-conflict last)"
    return f"{answers[0].question_id}: {said}; {used}"


def _change(answers: Sequence[Answer]) -> str:
    """What an annotator said of a window from one time to another, and what was used."""
    said = ", then ".join(map(_words, answers))
    last = answers[-1]
    return f"{last.question_id}: {shown(last.annotator)} said {said}; {_words(last)} counts, the last"


def _words(answer: Answer) -> str:
    return " and ".join(answer.labels) or answer.answer


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
    about a window itself stands over all, and in a folder of `pools_clips` what was answered about its clip
    over what its cluster says. Of an annotator's answers to a question the last counts.

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
    gathered = gather_answers(question_sets, annotations)
    asked = gathered.of_window
    num_questions = len({question.key for set_ in question_sets for question in set_.questions})
    if not asked:
        raise ActiveLearningError(
            f"none of the {num_questions} questions has an answer; answer some with `tfsound label`."
        )
    clusters = [read_windows(set_) for set_ in question_sets]
    numbers, num_windows = numbered(clusters)
    class_names = tuple(dict.fromkeys(name for set_ in question_sets for name in set_.class_names))
    contradicting = [found for found in asked.values() if contradict(found)]
    differences = {
        "conflicts": [found[0].question_id for found in contradicting],
        "changed": [found[-1].question_id for found in gathered.changed],
        "differences": [
            *(_difference(found, on_conflict) for found in contradicting), *map(_change, gathered.changed)
        ],
    }  # fmt: skip
    with pending_folder(output, window_labels.INFO_NAME, overwrite=overwrite) as folder:
        records = _records(
            question_sets, clusters, numbers, asked, on_conflict=on_conflict, propagate_none=propagate_none
        )
        counts = _write_records(os.path.join(folder, window_labels.LABELS_NAME), records)
        counts |= {
            "num_questions": num_questions,
            "num_answered": len(asked),
            "num_windows": num_windows,
        }
        settings = {
            "annotations": list(annotations), "on_conflict": on_conflict, "propagate_none": propagate_none
        }  # fmt: skip
        fields = label_file.summary_fields(class_names, questions, counts, settings) | differences
        resumption.write_json(os.path.join(folder, window_labels.INFO_NAME), fields)
    differences = {name: tuple(values) for name, values in differences.items()}
    return LabelSummary(output=output, **counts, **differences)


def _records(
    question_sets: Sequence[QuestionSet],
    clusters: Sequence[WindowClusters],
    numbers: Sequence[np.ndarray],
    asked: Mapping[WindowKey, Sequence[Answer]],
    *,
    on_conflict: str,
    propagate_none: bool,
) -> Iterator[dict]:
    """Lines of `labels.jsonl`, the last set first: what it tells of a window stands.

    Args:
      clusters, numbers: the windows of each set, and what `numbered` calls them.
      asked: the answers about each window.
    """
    is_decided = np.zeros(1 + max(number.max(initial=-1) for number in numbers), bool)
    options = {"on_conflict": on_conflict, "propagate_none": propagate_none}
    for place in reversed(range(len(question_sets))):
        windows, number = clusters[place], numbers[place]
        found = zip(windows.find(asked).tolist(), asked.values(), strict=True)
        of_windows = {window: said for window, said in found if window >= 0}
        propagation = propagate(windows.cluster, of_windows, **options)
        of_clip = {}
        if question_sets[place].pools_clips:
            # What was said of a clip itself stands over what its cluster says.
            of_clip = propagate(windows.clip_index, of_windows, **options).of_cluster
        for window in np.flatnonzero(~is_decided[number]).tolist():
            label, is_direct = propagation.label(window, int(windows.cluster[window]))
            if not is_direct:
                label = of_clip.get(int(windows.clip_index[window]), label)
            if label is not None:
                is_decided[number[window]] = True
                yield label_file.label_record(windows, window, label, is_direct=is_direct, question_set=place)


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
