"""The job `pairs`: clip examples -> pairs of what occurs together, sound with sound or sound with image.

`tfsound.pairs` decides each pair by its number alone; `drawn_sets` writes them.

Source: Jansen et al. 2020, section 3.1.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterator

from tfsound import arguments, examples, mel, pairs, windows
from tfsound.beam import drawn_sets, plans, running, window_index, worker_checks


@dataclasses.dataclass(frozen=True)
class DrawnPairs:
    """Pairs as `drawn_sets` writes them."""

    plan: pairs.Plan
    mel_params: mel.MelParams
    exclude_folds: tuple[str, ...] = ()
    allow_repeats: bool = False
    kind = examples.PAIRS

    @property
    def _has_images(self) -> bool:
        return self.plan.modality == examples.AUDIO_IMAGE

    @property
    def text(self) -> str:
        return f"{self.plan.modality}, {self.plan.constraint.max_time_gap_seconds:g} s"

    def require_possible(self, totals: windows.Totals, where: str) -> None:
        pairs.require_possible(self.plan, totals, where, allow_repeats=self.allow_repeats)

    def failures(self, totals: windows.Totals) -> list[dict]:
        return pairs.failures(self.plan, totals)

    def records(
        self,
        slots: range,
        totals: windows.Totals,
        load_bucket: Callable[[int], windows.Bucket],
        reader: window_index.WindowReader,
    ) -> Iterator[bytes]:
        read_other = reader.read_frame if self._has_images else reader.read
        for draw in pairs.draw_pairs(slots, self.plan, totals, load_bucket):
            yield draw.encode(reader.read(draw.audio), read_other(draw.other))

    def sidecar_fields(self, totals: windows.Totals) -> dict:
        count = self.plan.count
        return {
            "num_windows": count if self._has_images else 2 * count,
            "num_images": count if self._has_images else 0,
            "parameters": {
                "modality": self.plan.modality,
                "max_time_gap_seconds": _as_json(self.plan.constraint.max_time_gap_seconds),
                "exclude_folds": list(self.exclude_folds),
                "seed": self.plan.seed,
                "num_recordings": totals.num_recordings,
                "num_recordings_without_pairs": pairs.num_recordings_without_pairs(totals),
            },
        }


def _as_json(seconds: float) -> float | str:
    """JSON has no infinity; `float` reads either."""
    return seconds if math.isfinite(seconds) else str(seconds)


def sample_pairs(
    clips: str,
    output: str,
    *,
    modality: str = examples.AUDIO_AUDIO,
    max_time_gap_seconds: float = 10.0,
    count: int = 20000,
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
    """Samples pairs of windows, or of windows and frames, that occur near each other in a recording.

    Sound with sound: two windows that start less than the gap apart. Sound with image: a window, and a frame
    of the video that is shown at most the gap from the window's centre. Every window that has another, or a
    frame, so near is used equally often; no pair comes twice unless repeats are allowed. The same input,
    parameters and seed give the same records on any runner. Sets merge by listing their folders. A gap of 1
    second is the correspondence of the paper's ablation; one of `inf` is the whole recording. Flags that are
    not of this job go to Apache Beam.

    Args:
      clips: the folder of clip examples that the job `examples` made; with frames for sound with image.
      output: the folder to make.
      modality: `audio_audio` or `audio_image`.
      max_time_gap_seconds: how far apart in time the two of a pair may be.
      count: how many pairs, exactly.
      exclude_folds: folds to leave out, because they are for testing.
      seed: what every random draw depends on.
      num_shards: files to write; 0 for one per 2048 pairs.
      allow_repeats: where a window has used up what is near, let pairs come again.
      dry_run: write nothing, and say what it would take: hours of sound, bytes, core hours, files; from a
        sample that is drawn.
      overwrite: replace a finished output.
      runner: `local`, or a Beam runner by name, such as DataflowRunner.
      num_workers: workers on this machine, 0 for one a core.
      worker_mode: `threads` or `processes`.

    Returns:
      The sidecar of the set, or the plan of a dry run. Its parameters say how many recordings gave no
      pair; `failures.jsonl` names the first 200 of them, with the reason.

    Raises:
      DatasetError: the clips are missing, incomplete or damaged; ValueError: a parameter is out of range;
      ImpossibleError: the clips cannot give these pairs; JobError: the output exists, or the pipeline
      failed.
    """
    num_shards = drawn_sets.num_shards_of(count, num_shards)
    options = running.beam_options(
        runner=runner, num_workers=num_workers, worker_mode=worker_mode, beam_flags=beam_flags
    )
    worker_checks.require_reachable(options, inputs=(clips,), output=output)
    info = examples.read_dataset_info(clips, kind=examples.CLIPS)
    examples.require_folds(info, exclude_folds, clips)
    plan = pairs.make_plan(info, modality, max_time_gap_seconds, count, seed)
    pairs.require_plausible(plan, info, clips, allow_repeats=allow_repeats)
    drawn_set = DrawnPairs(plan, info.mel_params, exclude_folds, allow_repeats)
    if dry_run:
        return drawn_sets.plan_examples(
            clips, info=info, drawn_set=drawn_set, num_shards=num_shards, exclude_folds=exclude_folds,
            counts={drawn_set.text: count},
        )  # fmt: skip
    return drawn_sets.sample_examples(
        clips, output, info=info, drawn_set=drawn_set, num_shards=num_shards,
        exclude_folds=exclude_folds, overwrite=overwrite, options=options,
    )  # fmt: skip


def run(argv: list[str] | None = None) -> examples.DatasetInfo:
    """The job from a command line: `python -m tfsound.beam.pairs CLIPS OUTPUT ...`."""
    parser = argparse.ArgumentParser(prog="tfsound pairs", description=arguments.summary(sample_pairs))
    arguments.add_arguments(parser, sample_pairs)
    return arguments.call(parser, sample_pairs, argv)


if __name__ == "__main__":
    run()
