"""The job `triplets`: clip examples -> triplet examples under semantic constraints.

`triplets` decides each triplet by its number alone; `drawn_sets` writes them.

Source: Jansen et al. 2018, section 3.2.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator

from tfsound import arguments, examples, mel, sampling, triplets, windows
from tfsound.beam import drawn_sets, plans, running, window_index, worker_checks

_MAX_CLASSES_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class DrawnTriplets:
    """Triplets as `drawn_sets` writes them."""

    plan: triplets.Plan
    mel_params: mel.MelParams
    exclude_folds: tuple[str, ...] = ()
    allow_repeats: bool = False
    kind = examples.TRIPLETS

    @property
    def _num_frames(self) -> int:
        return self.mel_params.context_frames

    @property
    def constraint_texts(self) -> list[str]:
        return [sampling.constraint_text(constraint) for constraint in self.plan.constraints]

    def require_possible(self, totals: windows.Totals, where: str) -> None:
        triplets.require_possible(
            self.plan, totals, self._num_frames, where, allow_repeats=self.allow_repeats
        )

    def failures(self, totals: windows.Totals) -> list[dict]:
        left_out = triplets.classes_without_triplets(self.plan, totals).items()
        return [{"label": name, "reason": reason} for name, reason in left_out][: windows.MAX_NAMED]

    def records(
        self,
        slots: range,
        totals: windows.Totals,
        load_bucket: Callable[[int], windows.Bucket],
        reader: window_index.WindowReader,
    ) -> Iterator[bytes]:
        for draw in triplets.draw_triplets(slots, self.plan, totals, load_bucket, self._num_frames):
            energies = [reader.read(location) for location in draw.locations]
            yield triplets.encode_draw(draw, self.plan, energies, self.mel_params.num_columns)

    def sidecar_fields(self, totals: windows.Totals) -> dict:
        parameters = {
            "constraints": self.constraint_texts,
            "counts": list(self.plan.counts),
            "exclude_folds": list(self.exclude_folds),
            "seed": self.plan.seed,
        }
        if self.plan.uses_labels:
            left_out = list(triplets.classes_without_triplets(self.plan, totals))
            parameters["num_classes_without_triplets"] = len(left_out)
            parameters["classes_without_triplets"] = left_out[:_MAX_CLASSES_SHOWN]
        return {"num_windows": 3 * self.plan.count, "parameters": parameters}


def sample_triplets(
    clips: str,
    output: str,
    *,
    constraints: tuple[str, ...] = ("proximity:10",),
    count: int = 20000,
    shares: tuple[float, ...] = (),
    exclude_folds: tuple[str, ...] = (),
    seed: int = 0,
    num_shards: int = 0,
    allow_repeats: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    runner: str = "local",
    num_workers: int = 0,
    worker_mode: str = "threads",
    beam_flags: tuple[str, ...] = (),
) -> examples.DatasetInfo | plans.JobPlan:
    """Samples triplets from clip examples under semantic constraints.

    The constraints of the 2018 paper, each with its default: `labels` (explicit labels, every class as
    often), `noise:0.5` (standard deviation), `translation:10` (most mel bins up or down; any time shift),
    `mixing:0.25` (weight of the negative), `proximity:10` (seconds between anchor and positive, less than).
    Negatives come from another recording, under `labels` from a labelled one; no triplet comes twice unless
    repeats are allowed. The same input, parameters and seed give the same records on any runner. Sets merge
    by listing their folders. Flags that are not of this job go to Apache Beam.

    Args:
      clips: the folder of clip examples that the job `examples` made.
      output: the folder to make.
      constraints: one or more, each `name:parameter`, with spaces or commas between.
      count: how many triplets in all, exactly.
      shares: how the count is shared among the constraints; equally without.
      exclude_folds: folds to leave out, because they are for testing.
      seed: what every random draw depends on.
      num_shards: files to write; 0 for one per 2048 triplets.
      allow_repeats: where the count is more than there are different triplets, let some come again.
      dry_run: write nothing, and say what it would take: hours of sound, bytes, core hours, files; from a
        sample that is drawn.
      overwrite: replace a finished output.
      runner: `local`, or a Beam runner by name, such as DataflowRunner.
      num_workers: workers on this machine, 0 for one a core.
      worker_mode: `threads` or `processes`.

    Returns:
      The sidecar of the set, or the plan of a dry run. Under `labels` its parameters say how many classes
      gave no triplet; `failures.jsonl` names them, with the reason.

    Raises:
      DatasetError: the clips are missing, incomplete or damaged; ValueError: a parameter is out of range;
      ImpossibleError: the clips cannot give these triplets; JobError: the output exists, or the pipeline
      failed.
    """
    num_shards = drawn_sets.num_shards_of(count, num_shards)
    options = running.beam_options(
        runner=runner, num_workers=num_workers, worker_mode=worker_mode, beam_flags=beam_flags
    )
    worker_checks.require_reachable(options, inputs=(clips,), output=output)
    info = examples.read_dataset_info(clips, kind=examples.CLIPS)
    examples.require_folds(info, exclude_folds, clips)
    plan = triplets.make_plan(info, constraints, count, shares, seed)
    triplets.require_plausible(plan, info, clips, allow_repeats=allow_repeats)
    drawn_set = DrawnTriplets(plan, info.mel_params, exclude_folds, allow_repeats)
    if dry_run:
        return drawn_sets.plan_examples(
            clips, info=info, drawn_set=drawn_set, num_shards=num_shards, exclude_folds=exclude_folds,
            counts=dict(zip(drawn_set.constraint_texts, plan.counts, strict=True)),
        )  # fmt: skip
    return drawn_sets.sample_examples(
        clips, output, info=info, drawn_set=drawn_set, num_shards=num_shards,
        exclude_folds=exclude_folds, overwrite=overwrite, options=options,
    )  # fmt: skip


def run(argv: list[str] | None = None) -> examples.DatasetInfo:
    """The job from a command line: `python -m tfsound.beam.triplets CLIPS OUTPUT ...`."""
    parser = argparse.ArgumentParser(prog="tfsound triplets", description=arguments.summary(sample_triplets))
    arguments.add_arguments(parser, sample_triplets)
    return arguments.call(parser, sample_triplets, argv)


if __name__ == "__main__":
    run()
