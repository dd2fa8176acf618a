"""The job `learn`: a curriculum on a set of clip examples, phase after phase.

What lies in its output: `learn.json` (the parameters), `pairs/` and `triplets/` (while a phase needs them),
a run for each phase, `1-av/`, `2-av+aa/` and so on, `curriculum.csv` and `curriculum.json`.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence

from tfsound import examples, networks, resumption, training, window_labels
from tfsound.beam.pairs import sample_pairs
from tfsound.beam.triplets import sample_triplets
from tfsound.curriculum.combined_log import write_combined_log
from tfsound.curriculum.phase_file import format_phases, read_phases, to_record
from tfsound.curriculum.phases import (
    CLASSIFIER,
    COINCIDENCE,
    PAPER_CURRICULUM,
    TRIPLETS,
    CurriculumError,
    Phase,
    audio_only,
    require_order,
)

# Which labels the classifier learns from, and how the names of their files begin.
_LABELS_NAME = "classifier_labels.json"
_LABELS_FILES = "labels."


@dataclasses.dataclass(frozen=True)
class Learned:
    """What came of it.

    Attributes:
      runs: of the phases that are finished, in their order.
      next_step: what to do next, in words.
    """

    runs: tuple[training.TrainingRun, ...]
    next_step: str

    def __str__(self) -> str:
        return "\n".join([*map(str, self.runs), self.next_step])


def learn(
    clips: str,
    output: str,
    *,
    phases: str = "",
    labels: str = "",
    start_from: str = "",
    num_clusters: int = 0,
    num_steps: int = 0,
    encoder: str = "resnet_small",
    embedding_dim: int = networks.EMBEDDING_DIM,
    unit_norm: bool = False,
    exclude_folds: tuple[str, ...] = (),
    precision: str = "float32",
    seed: int = 0,
    write_phases: str = "",
    overwrite: bool = False,
) -> Learned | str:
    """Learns an encoder by the 2020 paper's curriculum: AV, then AV and AA, then clusters, then a classifier.

    Each phase is a training run that starts from the one before and ends where its loss no longer falls.
    Clips without pictures go without AV. The classifier needs labels that people give in between: without
    them the job ends after the clusters and says how to ask; with them the same command goes on. What is
    finished is kept, and a run that was cut off goes on from its last checkpoint. Pairs are sampled as
    phases need them, with repeats where clips are few, and removed after the last that needs them.

    Args:
      clips: the folder of clip examples; with frames for AV.
      output: the folder for everything that is made.
      phases: a JSON file of phases, in place of the paper's.
      labels: the folder of labels that `tfsound answers` wrote, for the classifier.
      start_from: a finished run on triplets or pairs whose weights the first phase starts from; `encoder`,
        `embedding_dim` and `unit_norm` must be its own (encoders of triplets have unit_norm).
      num_clusters: K, of every phase with clusters, in place of what it says (1000).
      num_steps: steps at most, of every phase, in place of what it says (5000, of the classifier 1000).
      encoder: `resnet_small` for CPUs, `resnet50` as in the paper; of sounds and of images.
      embedding_dim: length of an embedding.
      unit_norm: scale embeddings to length 1.
      exclude_folds: folds to leave out, because they are for testing.
      precision: `float32` or `bfloat16`.
      seed: of everything drawn.
      write_phases: only write the phases to this file, to be edited and passed as `phases`.
      overwrite: start anew in an output that another call made; replace the file of `write_phases`.

    Returns:
      The finished runs, and what comes next.

    Raises:
      CurriculumError: phases that are none, that need pictures which the clips do not have, labels without a
      phase for them, or other labels than a finished classifier was trained on; ValueError: an output that
      was begun with other parameters; DatasetError, ImpossibleError, JobError, TrainingError: see the jobs
      it runs.

    Source: Jansen et al. 2020, section 3.4.
    """
    info = examples.read_dataset_info(clips, kind=examples.CLIPS)
    examples.require_folds(info, exclude_folds, clips)
    chosen = _choose_phases(phases, info.num_images > 0, num_clusters, num_steps)
    if write_phases:
        return _write_phases(chosen, write_phases, overwrite)
    if encoder not in networks.ENCODERS:
        raise ValueError(f"encoder must be one of {', '.join(sorted(networks.ENCODERS))}, got {encoder!r}.")
    curriculum = Curriculum(
        clips=clips, output=output, phases=chosen, labels=labels, start_from=start_from,
        exclude_folds=exclude_folds, encoder=encoder, embedding_dim=embedding_dim, unit_norm=unit_norm,
        precision=precision, seed=seed,
    )  # fmt: skip
    curriculum.require_possible()
    with resumption.taken_up(output, curriculum.settings(), overwrite=overwrite, job="learn"):
        return curriculum.run()


def _choose_phases(path: str, has_images: bool, num_clusters: int, num_steps: int) -> tuple[Phase, ...]:
    """The phases of a file, or those of the paper that the clips allow; with the numbers that were given.

    Raises:
      CurriculumError: phases that are none, that need pictures, or that a number does not fit.
    """
    chosen = read_phases(path) if path else PAPER_CURRICULUM if has_images else audio_only(PAPER_CURRICULUM)
    for number, phase in enumerate(chosen, 1):
        if phase.needs_images and not has_images:
            raise CurriculumError(
                f"{path}, phase {number} ({phase.name}): modalities has audio_image, and the clips have no "
                "pictures; remove it, or make clips with --frames-per-second."
            )
    if num_clusters and not any(phase.num_clusters for phase in chosen):
        raise CurriculumError(
            f"num_clusters {num_clusters} was given, and no phase of {path} has clusters; leave it out, or "
            "give a phase num_clusters."
        )
    replaced = []
    for phase in chosen:
        changes = {"num_steps": num_steps} if num_steps else {}
        if num_clusters and phase.num_clusters:
            changes["num_clusters"] = num_clusters
        replaced.append(dataclasses.replace(phase, **changes))
    return tuple(replaced)


def _write_phases(phases: Sequence[Phase], path: str, overwrite: bool) -> str:
    if os.path.exists(path) and not overwrite:
        raise CurriculumError(f"{path} exists; choose another --write-phases or pass --overwrite.")
    resumption.write_text(path, format_phases(phases))
    return f"wrote {len(phases)} phases to {path}; edit them and pass --phases {path}"


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """The phases of one output, and how each is trained. Fields: see `learn`."""

    clips: str
    output: str
    phases: tuple[Phase, ...]
    labels: str = ""
    start_from: str = ""
    exclude_folds: tuple[str, ...] = ()
    encoder: str = "resnet_small"
    embedding_dim: int = networks.EMBEDDING_DIM
    unit_norm: bool = False
    precision: str = "float32"
    seed: int = 0

    def require_possible(self) -> None:
        """Refuses at once what a phase would refuse after hours. Raises: CurriculumError, TrainingError."""
        require_order(self.phases)
        first, last = self.phases[0], self.phases[-1]
        if first.kind == TRIPLETS and self.start_from:
            raise CurriculumError(
                f"phase 1 ({first.name}): kind triplets starts from no other run; leave out --start-from."
            )
        leads_to_pairs = COINCIDENCE in {phase.kind for phase in self.phases}
        if first.kind == TRIPLETS and leads_to_pairs and not self.unit_norm:
            raise CurriculumError(
                f"phase 1 ({first.name}): kind triplets makes embeddings of length 1; pass --unit-norm, so "
                "that the phases that go on from it do, too."
            )
        if first.freeze and not self.start_from:
            raise CurriculumError(
                f"phase 1 ({first.name}): freeze keeps an encoder that has learned nothing; put a phase "
                "before it, or pass --start-from."
            )
        if self.labels and last.kind != CLASSIFIER:
            raise CurriculumError(
                f"labels are for a phase of kind classifier, and the last, {last.name}, is of kind "
                f"{last.kind}; leave them out, or add a phase."
            )
        if self.labels and not os.path.isdir(self.labels):
            raise CurriculumError(
                f"labels {self.labels} is no folder; expected the one that `tfsound answers` wrote."
            )
        if self.labels and not os.path.isfile(os.path.join(self.labels, window_labels.INFO_NAME)):
            raise CurriculumError(
                f"labels {self.labels} is no finished set of labels: it holds no {window_labels.INFO_NAME}; "
                "make it with `tfsound answers`."
            )
        # A phase that has begun needs no more what it started from.
        if self.start_from and not os.path.exists(self.run_folder(0)):
            training.finished_run(self.start_from)

    def settings(self) -> dict:
        """The parameters that an output is of. Labels are not among them: they come later."""
        fields = dataclasses.asdict(self) | {"phases": [phase.name for phase in self.phases]}
        del fields["output"], fields["labels"]
        # One by one, so that a message can name the field that differs.
        return fields | {
            f"{phase.name}.{field}": value
            for phase in self.phases
            for field, value in to_record(phase).items()
        }

    def run(self) -> Learned:
        """Trains the phases that are not finished. Raises: see `learn`."""
        if self.labels:
            self._require_same_labels()
        try:
            for number, phase in enumerate(self.phases):
                if self._is_finished(number):
                    continue
                if phase.kind == CLASSIFIER and not self.labels:
                    return self._learned(self._how_to_ask())
                name = f"Phase {number + 1} of {len(self.phases)}, {phase.name}"
                print(f"{name}: {self.run_folder(number)}", file=sys.stderr)
                self._prepare(phase)
                train, arguments = self.training_call(number)
                train(**arguments)
        finally:
            self._remove_examples()
            runs = [(phase, self.run_folder(number)) for number, phase in enumerate(self.phases)]
            write_combined_log(self.output, runs)
        return self._learned(f"All phases are finished; the last is in {self.run_folder(-1)}.")

    def run_folder(self, number: int) -> str:
        """The run of a phase, counted from 0."""
        number %= len(self.phases)
        return os.path.join(self.output, f"{number + 1}-{self.phases[number].name}")

    def _is_finished(self, number: int) -> bool:
        return os.path.exists(os.path.join(self.run_folder(number), training.ENCODER_INFO_NAME))

    def training_call(self, number: int) -> tuple[Callable[..., training.TrainingRun], dict]:
        """The function that trains a phase, counted from 0, and its arguments."""
        phase = self.phases[number]
        arguments = {
            "output": self.run_folder(number), "num_steps": phase.num_steps, "batch_size": phase.batch_size,
            "learning_rate": phase.learning_rate, "learning_rate_decay": phase.learning_rate_decay,
            "patience_intervals": phase.patience_intervals,
            "steps_per_checkpoint": phase.steps_per_checkpoint, "encoder": self.encoder,
            "embedding_dim": self.embedding_dim, "precision": self.precision, "seed": self.seed,
        }  # fmt: skip
        if phase.kind == TRIPLETS:
            return training.train, arguments | {"triplets": list(self._examples(phase).values())}
        arguments["start_from"] = self.run_folder(number - 1) if number else self.start_from
        if phase.kind == CLASSIFIER:
            of_classifier = {
                "clips": self.clips, "labels": self.labels, "exclude_folds": self.exclude_folds,
                "multi_label": phase.multi_label, "hard": phase.hard, "class_balance": phase.class_balance,
                "freeze": phase.freeze,
            }  # fmt: skip
            return training.train_classifier, arguments | of_classifier
        of_pairs = {"unit_norm": self.unit_norm, "audio_audio_weight": phase.audio_audio_weight}
        if phase.num_clusters:
            names = ("num_clusters", "cluster_weight", "diversity_weight")
            of_pairs |= {name: getattr(phase, name) for name in names}
        pairs = {modality: (folder,) for modality, folder in self._examples(phase).items()}
        return training.train_coincidence, arguments | of_pairs | pairs

    def _examples(self, phase: Phase) -> dict[str, str]:
        """The folders of what a phase learns from, by kind of pairs; phases of the same pairs share them."""
        if phase.kind == TRIPLETS:
            return {TRIPLETS: os.path.join(self.output, "triplets")}
        of_phase = f"{float(phase.max_time_gap_seconds)}s-{phase.num_examples}"
        return {name: os.path.join(self.output, "pairs", f"{name}-{of_phase}") for name in phase.modalities}

    def _prepare(self, phase: Phase) -> None:
        """Samples what a phase learns from, where it is not there yet; notes which labels it learns from."""
        options = {
            "count": phase.num_examples, "exclude_folds": self.exclude_folds, "seed": self.seed,
            "allow_repeats": True, "overwrite": True,
        }  # fmt: skip
        for name, folder in self._examples(phase).items():
            if os.path.exists(os.path.join(folder, examples.INFO_NAME)):
                continue
            if phase.kind == TRIPLETS:
                sample_triplets(self.clips, folder, constraints=phase.constraints, **options)
            else:
                gap = phase.max_time_gap_seconds
                sample_pairs(self.clips, folder, modality=name, max_time_gap_seconds=gap, **options)
        if phase.kind == CLASSIFIER:
            resumption.write_json(os.path.join(self.output, _LABELS_NAME), self._describe_labels())

    def _remove_examples(self) -> None:
        """Removes what no phase needs any more."""
        needed = set()
        for number, phase in enumerate(self.phases):
            if not self._is_finished(number):
                needed.update(self._examples(phase).values())
        for phase in self.phases:
            for folder in set(self._examples(phase).values()) - needed:
                if os.path.isdir(folder):
                    shutil.rmtree(folder)

    def _describe_labels(self) -> dict[str, str]:
        """Which labels they are: their folder, and a hash of its files."""
        digest = hashlib.sha256()
        for name in sorted(os.listdir(self.labels)):
            if name.startswith(_LABELS_FILES):
                with open(os.path.join(self.labels, name), "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return {"labels": self.labels, "sha256": digest.hexdigest()}

    def _require_same_labels(self) -> None:
        """Raises: CurriculumError where there is a classifier of other labels, which would pass for it."""
        path, classifier = os.path.join(self.output, _LABELS_NAME), self.run_folder(-1)
        if not os.path.exists(path) or not os.path.exists(classifier):
            return
        with open(path) as file:
            learned_from = json.load(file)
        if learned_from["sha256"] != self._describe_labels()["sha256"]:
            raise CurriculumError(
                f"{classifier} learned from what {learned_from['labels']} held then, not from what "
                f"{self.labels} holds now; remove {classifier} to train it anew, or train another one with "
                "`tfsound train-classifier`."
            )

    def _how_to_ask(self) -> str:
        run = self.run_folder(-2) if len(self.phases) > 1 else self.start_from or "RUN"
        without = f" --exclude-folds {' '.join(self.exclude_folds)}" if self.exclude_folds else ""
        return (
            "The classifier needs labels. Ask a person about each cluster:\n"
            f"  tfsound questions {self.clips} {run} QUESTIONS --manifest MANIFEST{without}\n"
            "  tfsound label QUESTIONS\n"
            "  tfsound answers QUESTIONS LABELS\n"
            "Then go on with the same command and --labels LABELS."
        )

    def _learned(self, next_step: str) -> Learned:
        finished = [number for number in range(len(self.phases)) if self._is_finished(number)]
        return Learned(tuple(training.finished_run(self.run_folder(n)) for n in finished), next_step)
