"""Tests of tfsound.curriculum: the job that trains phases one after another, and how it calls for each."""

import csv
import inspect
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tiny
from training_runs import at_each_step, config_of, require_same_end

from tfsound import active_learning, arguments, curriculum, examples, training
from tfsound.curriculum import (
    CLASSIFIER,
    COINCIDENCE,
    PAPER_CURRICULUM,
    TRIPLETS,
    Curriculum,
    CurriculumError,
    Phase,
    audio_only,
    job,
    learn,
)

pytestmark = pytest.mark.usefixtures("tiny_encoder")

AV, AA = "audio_image", "audio_audio"


# From phases to calls.

JOB = {
    "clips": "CLIPS", "output": "OUT", "labels": "LABELS", "exclude_folds": ("5",), "encoder": "resnet50",
    "embedding_dim": 64, "precision": "bfloat16", "seed": 7,
}  # fmt: skip
# What every training function is told of a phase and of the job.
OF_ALL = {
    "encoder": "resnet50", "embedding_dim": 64, "precision": "bfloat16", "seed": 7, "num_steps": 5000,
    "batch_size": 64, "learning_rate": 1e-3, "learning_rate_decay": "constant", "patience_intervals": 5,
    "steps_per_checkpoint": 100,
}  # fmt: skip
OF_PAIR_PHASES = OF_ALL | {"unit_norm": False, "audio_audio_weight": 0.1}
OF_CLUSTERS = {"num_clusters": 1000, "cluster_weight": 0.1, "diversity_weight": 1.1}
AV_FOLDER, AA_FOLDER = ("OUT/pairs/audio_image-10.0s-20000",), ("OUT/pairs/audio_audio-10.0s-20000",)


def require_call(curriculum_, number, function, expected):
    found, keywords = curriculum_.training_call(number)
    assert found is function
    assert keywords == expected
    inspect.signature(found).bind(**keywords)  # raises where it takes no such argument


def test_the_phases_of_the_paper_are_trained_one_from_the_other():
    whole = Curriculum(phases=PAPER_CURRICULUM, start_from="TRIPLET_RUN", **JOB)
    require_call(
        whole, 0, training.train_coincidence,
        OF_PAIR_PHASES | {"output": "OUT/1-av", "start_from": "TRIPLET_RUN", AV: AV_FOLDER},
    )  # fmt: skip
    both = {AV: AV_FOLDER, AA: AA_FOLDER}
    require_call(
        whole, 1, training.train_coincidence,
        OF_PAIR_PHASES | {"output": "OUT/2-av+aa", "start_from": "OUT/1-av", **both},
    )  # fmt: skip
    require_call(
        whole, 2, training.train_coincidence,
        OF_PAIR_PHASES | OF_CLUSTERS | {"output": "OUT/3-clusters", "start_from": "OUT/2-av+aa", **both},
    )  # fmt: skip
    require_call(
        whole, 3, training.train_classifier,
        OF_ALL
        | {
            "output": "OUT/4-classifier", "start_from": "OUT/3-clusters", "clips": "CLIPS",
            "labels": "LABELS", "exclude_folds": ("5",), "num_steps": 1000, "patience_intervals": 0,
            "learning_rate_decay": "cosine", "multi_label": True, "hard": False,
            "class_balance": "natural", "freeze": False,
        },
    )  # fmt: skip


def test_a_phase_of_triplets_is_trained_as_such():
    phases = (Phase("near", TRIPLETS, constraints=("proximity:10",)),)
    require_call(
        Curriculum(phases=phases, **JOB), 0, training.train,
        OF_ALL | {"output": "OUT/1-near", "triplets": ["OUT/triplets"]},
    )  # fmt: skip


# The job.

SMALL = {"num_steps": 5, "steps_per_checkpoint": 2, "patience_intervals": 0, "batch_size": 4}
PAIRS = {"kind": COINCIDENCE, "num_examples": 16, "max_time_gap_seconds": 0.2}
AV_PHASE = {"name": "av", "modalities": [AV], **PAIRS, **SMALL}
BOTH_PHASE = {"name": "av+aa", "modalities": [AV, AA], **PAIRS, **SMALL}
AA_PHASE = {"name": "aa", "modalities": [AA], **PAIRS, **SMALL}
CLUSTER_PHASE = BOTH_PHASE | {"name": "clusters", "num_clusters": 3}
CLASSIFIER_PHASE = {"name": "classifier", "kind": CLASSIFIER, **SMALL}
NETWORKS = {"encoder": "tiny", "embedding_dim": 6}


def write_clips(folder, *, with_images=True):
    frame_seconds = (0.04, 0.12, 0.2)
    return tiny.write_clips(
        folder,
        [
            tiny.make_clip(
                number, labels=("ab"[number % 2],), fold=str(number % 3),
                frame_seconds=[0.25 * number + at for at in frame_seconds] if with_images else (),
            )
            for number in range(9)
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("sets") / "clips")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Clips without pictures."""
    return write_clips(tmp_path_factory.mktemp("sets") / "sounds", with_images=False)


def write_phases(folder, *records):
    path = pathlib.Path(folder, "phases.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(records))
    return str(path)


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """A job of AV, and AV with AA, that nothing disturbed. Tests only read it."""
    folder = tmp_path_factory.mktemp("whole")
    phases = write_phases(folder / "files", AV_PHASE, BOTH_PHASE, CLASSIFIER_PHASE)
    return phases, str(folder / "out"), learn(clips, str(folder / "out"), phases=phases, **NETWORKS)


def combined(output):
    with open(os.path.join(output, curriculum.LOG_NAME), newline="") as file:
        return list(csv.DictReader(file))


def require_same(output, expected):
    for run in ("1-av", "2-av+aa"):
        require_same_end(f"{output}/{run}", f"{expected}/{run}")
    assert len(combined(output)) == len(combined(expected))


def test_phases_start_from_each_other(whole, clips):
    _, output, learned = whole
    assert sorted(os.listdir(output)) == [
        "1-av", "2-av+aa", "curriculum.csv", "curriculum.json", "learn.json", "pairs",
    ]  # fmt: skip
    configs = [config_of(f"{output}/{run}") for run in ("1-av", "2-av+aa")]
    assert [config["start_from"] for config in configs] == ["", f"{output}/1-av"]
    assert [(config["num_audio_image"], config.get("num_audio_audio")) for config in configs] == [
        (16, None), (16, 16),
    ]  # fmt: skip
    assert os.listdir(f"{output}/pairs") == []  # no phase needs any more of them
    assert [run.output for run in learned.runs] == [f"{output}/1-av", f"{output}/2-av+aa"]
    assert str(learned).splitlines() == [
        *map(str, learned.runs),
        "The classifier needs labels. Ask a person about each cluster:",
        f"  tfsound questions {clips} {output}/2-av+aa QUESTIONS --manifest MANIFEST",
        "  tfsound label QUESTIONS",
        "  tfsound answers QUESTIONS LABELS",
        "Then go on with the same command and --labels LABELS.",
    ]


def test_the_combined_log_tells_phases_weights_and_losses(whole):
    _, output, _ = whole
    rows = combined(output)
    assert [(row["phase"], row["step"]) for row in rows] == [
        (phase, step) for phase in ("av", "av+aa") for step in ("2", "4", "5")
    ]  # fmt: skip
    assert list(rows[0])[:3] == ["phase", "audio_image_weight", "audio_audio_weight"]
    for row in rows:
        losses = [
            float(row[f"{task}_weight"]) * float(row[f"{task}_loss"])
            for task in (AV, AA) if row[f"{task}_weight"]
        ]  # fmt: skip
        assert len(losses) == {"av": 1, "av+aa": 2}[row["phase"]]
        assert float(row["loss"]) == pytest.approx(sum(losses), abs=1e-5)
    assert rows[0]["audio_audio_loss"] in ("", "0.0")  # there was none
    summary = json.loads(pathlib.Path(output, curriculum.SUMMARY_NAME).read_text())["phases"]
    assert [(phase["phase"], phase["run"], phase["num_steps"], phase["finished"]) for phase in summary] == [
        ("av", "1-av", 5, True), ("av+aa", "2-av+aa", 5, True), ("classifier", "3-classifier", 0, False),
    ]  # fmt: skip
    assert summary[1]["final"] == training.read_log(f"{output}/2-av+aa/log.csv")[-1]
    assert summary[1]["weights"] == {"audio_image_weight": 0.9, "audio_audio_weight": 0.1}


def test_finished_phases_are_not_touched(whole, clips, monkeypatch):
    phases, output, learned = whole
    times = {path: path.stat().st_mtime_ns for path in pathlib.Path(output).rglob("*/*") if path.is_file()}
    monkeypatch.setattr(training, "train_coincidence", None)
    monkeypatch.setattr(job, "sample_pairs", None)
    assert learn(clips, output, phases=phases, **NETWORKS) == learned
    assert times == {path: path.stat().st_mtime_ns for path in times}


def interrupt_in(patch, where):
    if where == "pairs of phase 2":
        original = job.sample_pairs

        def sampling(*arguments, modality, **options):
            if modality == AA:
                raise KeyboardInterrupt
            return original(*arguments, modality=modality, **options)

        patch.setattr(job, "sample_pairs", sampling)
        return
    if where == "examples that go":
        patch.setattr(Curriculum, "_remove_examples", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        return
    wanted = {"step 3 of phase 1": ("1-av", 3), "step 4 of phase 2": ("2-av+aa", 4)}[where]
    original = training.coincidence.runs.train_model
    running = []

    def train_model(*arguments, **options):
        running.append(os.path.basename(arguments[4]))
        return original(*arguments, **options)

    def interrupt(steps_done):
        if (running[-1], steps_done) == wanted:
            raise KeyboardInterrupt

    patch.setattr(training.coincidence.runs, "train_model", train_model)
    at_each_step(patch, interrupt)


@pytest.mark.parametrize(
    "where", ["step 3 of phase 1", "pairs of phase 2", "step 4 of phase 2", "examples that go"]
)
def test_the_same_command_goes_on_where_it_was_interrupted(whole, clips, tmp_path, where):
    phases, expected, _ = whole
    output = str(tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_in(patch, where)
        with pytest.raises(KeyboardInterrupt):
            learn(clips, output, phases=phases, **NETWORKS)
    if where == "step 4 of phase 2":
        assert [row["phase"] for row in combined(output)] == ["av"] * 3 + ["av+aa"]
    learn(clips, output, phases=phases, **NETWORKS)
    require_same(output, expected)
    assert os.listdir(f"{output}/pairs") == []


def test_other_parameters_do_not_go_on(whole, clips, tmp_path):
    _, output, _ = whole
    phases = write_phases(tmp_path, AV_PHASE | {"num_steps": 9}, BOTH_PHASE, CLASSIFIER_PHASE)
    with pytest.raises(ValueError, match=r"begun with other parameters \(av\.num_steps: 5 then, 9 now\)"):
        learn(clips, output, phases=phases, **NETWORKS)
    phases = write_phases(tmp_path, AV_PHASE, BOTH_PHASE)
    with pytest.raises(ValueError, match=r"\(phases: \['av', 'av\+aa', 'classifier'\] then, \['av', 'av\+a"):
        learn(clips, output, phases=phases, **NETWORKS)
    with pytest.raises(ValueError, match=r"\(seed: 0 then, 1 now\)"):
        learn(clips, output, phases=whole[0], seed=1, **NETWORKS)


def test_a_phase_ends_where_its_loss_no_longer_falls(clips, tmp_path):
    flat = {"num_steps": 40, "patience_intervals": 1, "learning_rate": 1e-7}
    phases = write_phases(tmp_path, AV_PHASE | flat, BOTH_PHASE)
    learned = learn(clips, str(tmp_path / "out"), phases=phases, **NETWORKS)
    first, second = learned.runs
    assert first.converged
    assert first.num_steps < 40
    assert (second.converged, second.num_steps) == (False, 5)
    assert "converged after" in str(learned)
    summary = json.loads((tmp_path / "out" / curriculum.SUMMARY_NAME).read_text())["phases"]
    assert [phase["converged"] for phase in summary] == [True, False]


def test_clips_without_pictures_run_the_curriculum_without_av(sounds, tmp_path):
    path = str(tmp_path / "written" / "phases.json")
    assert learn(sounds, "OUT", write_phases=path) == (
        f"wrote 3 phases to {path}; edit them and pass --phases {path}"
    )
    assert curriculum.read_phases(path) == audio_only(PAPER_CURRICULUM)
    assert not os.path.exists("OUT")
    with pytest.raises(CurriculumError, match="exists; choose another --write-phases or pass --overwrite"):
        learn(sounds, "OUT", write_phases=path)
    phases = write_phases(tmp_path, AA_PHASE)
    learned = learn(sounds, str(tmp_path / "out"), phases=phases, exclude_folds=("1",), **NETWORKS)
    assert str(learned).endswith(f"All phases are finished; the last is in {tmp_path}/out/1-aa.")
    assert set(combined(tmp_path / "out")[0]) >= {"phase", "audio_audio_weight", "audio_audio_loss"}
    phases = write_phases(tmp_path, AA_PHASE, BOTH_PHASE)
    message = r"phases\.json, phase 2 \(av\+aa\): modalities has audio_image, and the clips have no pictures"
    with pytest.raises(CurriculumError, match=message):
        learn(sounds, str(tmp_path / "other"), phases=phases, **NETWORKS)


def test_numbers_that_are_given_stand_above_those_of_the_phases(clips, tmp_path):
    path = str(tmp_path / "phases.json")
    learn(clips, "OUT", write_phases=path, num_clusters=50, num_steps=7)
    phases = curriculum.read_phases(path)
    assert [phase.num_steps for phase in phases] == [7] * 4
    assert [phase.num_clusters for phase in phases] == [0, 0, 50, 0]
    with pytest.raises(CurriculumError, match="num_clusters must be 0 or at least 2, got 1"):
        learn(clips, "OUT", write_phases=path, num_clusters=1)


def test_a_curriculum_begins_with_triplets(sounds, tmp_path):
    triplets = {"name": "near", "kind": TRIPLETS, "constraints": ["proximity:0.2"], "num_examples": 16}
    phases = write_phases(tmp_path, triplets | SMALL)
    output = str(tmp_path / "out")
    learned = learn(sounds, output, phases=phases, **NETWORKS)
    assert [run.num_steps for run in learned.runs] == [5]
    assert {row["triplet_weight"] for row in combined(output)} == {"1.0"}
    assert not os.path.exists(f"{output}/triplets")
    with pytest.raises(CurriculumError, match=r"phase 1 \(near\): kind triplets starts from no other run"):
        learn(sounds, str(tmp_path / "no"), phases=phases, start_from=f"{output}/1-near", **NETWORKS)
    phases = write_phases(tmp_path, triplets | SMALL, AA_PHASE)
    message = r"phase 1 \(near\): kind triplets makes embeddings of length 1; pass --unit-norm"
    with pytest.raises(CurriculumError, match=message):
        learn(sounds, str(tmp_path / "no"), phases=phases, **NETWORKS)
    assert not os.path.exists(tmp_path / "no")


# With clusters and labels.


def label_clusters(clips, run, folder, *, num_questions):
    """Asks about the clusters of a run, answers by the clips' own labels, and spreads the answers."""
    questions, labels = f"{folder}/questions-{num_questions}", f"{folder}/labels-{num_questions}"
    asked = active_learning.questions(
        clips, run, questions,
        num_questions=num_questions, num_clusters=num_questions, exclude_folds=("2",),
    )  # fmt: skip
    labels_of_clip = {clip.clip_id: clip.labels for clip in examples.iter_clips(clips)}
    with active_learning.AnswerLog(questions) as log:
        for answer in active_learning.simulated_answers(asked.questions, labels_of_clip):
            log.append(answer.question_id, answer.answer, answer.labels, answer.annotator, time=answer.time)
    active_learning.answers((questions,), labels)
    return labels


def test_all_four_phases(clips, tmp_path):
    phases = write_phases(tmp_path, AV_PHASE, BOTH_PHASE, CLUSTER_PHASE, CLASSIFIER_PHASE)
    output, options = str(tmp_path / "out"), {"phases": phases, "exclude_folds": ("2",), **NETWORKS}
    learned = learn(clips, output, **options)
    assert [os.path.basename(run.output) for run in learned.runs] == ["1-av", "2-av+aa", "3-clusters"]
    assert f"{output}/3-clusters QUESTIONS --manifest MANIFEST --exclude-folds 2\n" in str(learned)
    assert training.load_cluster_head(f"{output}/3-clusters").num_clusters == 3
    for row in combined(output):
        weighted = [name for name, value in row.items() if name.endswith("_weight") and value]
        losses = [float(row[name]) * float(row[name.replace("_weight", "_loss")]) for name in weighted]
        assert float(row["loss"]) == pytest.approx(sum(losses), abs=1e-4)
        assert len(losses) == {"av": 1, "av+aa": 2, "clusters": 3}[row["phase"]]

    labels = label_clusters(clips, f"{output}/3-clusters", tmp_path, num_questions=12)
    times = {path: path.stat().st_mtime_ns for path in pathlib.Path(output).glob("[123]-*/**/*")}
    learned = learn(clips, output, labels=labels, **options)
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert str(learned).endswith(f"All phases are finished; the last is in {output}/4-classifier.")
    classifier, mel_params, class_names = training.load_classifier(f"{output}/4-classifier")
    assert (mel_params, class_names) == (tiny.PARAMS, ("a", "b"))
    windows = np.zeros((3, *tiny.WINDOW), np.float32)
    assert classifier(windows).shape == (3, 2)
    config = config_of(f"{output}/4-classifier")
    assert (config["start_from"], config["exclude_folds"]) == (f"{output}/3-clusters", ["2"])
    assert [row["classification_weight"] for row in combined(output) if row["phase"] == "classifier"] == [
        "1.0"
    ] * 3
    assert learn(clips, output, labels=labels, **options) == learned
    moved = shutil.copytree(labels, tmp_path / "moved")  # the same labels, whatever their folder is called
    assert learn(clips, output, labels=str(moved), **options) == learned

    others = label_clusters(clips, f"{output}/3-clusters", tmp_path, num_questions=11)
    message = (
        r"4-classifier learned from what .*labels-12 held then, not from what .*labels-11 holds now; rem"
    )
    with pytest.raises(CurriculumError, match=message):
        learn(clips, output, labels=others, **options)
    shutil.rmtree(f"{output}/4-classifier")
    assert len(learn(clips, output, labels=others, **options).runs) == 4


def test_a_classifier_phase_is_trained_as_its_fields_say(clips, tmp_path):
    fields = {"multi_label": False, "hard": True, "class_balance": "uniform", "freeze": True}
    phases = write_phases(tmp_path, AV_PHASE, CLASSIFIER_PHASE | fields)
    output, options = str(tmp_path / "out"), {"phases": phases, **NETWORKS}
    learn(clips, output, **options)
    labels = label_clusters(clips, f"{output}/1-av", tmp_path, num_questions=12)
    learn(clips, output, labels=labels, **options)
    config = config_of(f"{output}/2-classifier")
    assert {name: config[name] for name in fields} == fields
    started, trained = (training.load_encoder(f"{output}/{run}")[0] for run in ("1-av", "2-classifier"))
    for before, after in zip(started.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    scores = training.load_classifier(f"{output}/2-classifier")[0](np.zeros((3, *tiny.WINDOW), np.float32))
    np.testing.assert_allclose(np.sum(scores, axis=1), 1, atol=1e-5)  # of classes that exclude each other
    phases = write_phases(tmp_path, AV_PHASE, CLASSIFIER_PHASE | fields | {"freeze": False})
    with pytest.raises(ValueError, match=r"\(classifier\.freeze: True then, False now\)"):
        learn(clips, output, phases=phases, labels=labels, **NETWORKS)


def test_a_run_on_triplets_starts_the_curriculum(sounds, tmp_path):
    triplets = tiny.write_triplets(tmp_path / "triplets", range(16))
    run = str(tmp_path / "run")
    training.train([triplets], run, num_steps=2, batch_size=4, **NETWORKS)
    phases = write_phases(tmp_path, AA_PHASE, CLUSTER_PHASE | {"modalities": [AA]})
    output = str(tmp_path / "out")
    learned = learn(sounds, output, phases=phases, start_from=run, unit_norm=True, **NETWORKS)
    assert [os.path.basename(run.output) for run in learned.runs] == ["1-aa", "2-clusters"]
    assert training.load_cluster_head(f"{output}/2-clusters").num_clusters == 3


def test_what_is_given_wrongly_is_refused_before_anything_is_made(clips, whole, tmp_path):
    output = str(tmp_path / "out")
    with pytest.raises(ValueError, match=r"encoder must be one of .*, got 'resnet18'"):
        learn(clips, output, encoder="resnet18")
    with pytest.raises(ValueError, match="is not a folder"):
        learn(str(tmp_path / "nowhere"), output)
    with pytest.raises(ValueError, match="fold '9' does not occur"):
        learn(clips, output, exclude_folds=("9",))
    with pytest.raises(FileNotFoundError):
        learn(clips, output, phases=str(tmp_path / "no.json"))
    with pytest.raises(CurriculumError, match="LABELS is no folder; expected the one that `tfsound answers`"):
        learn(clips, output, labels="LABELS")
    phases = write_phases(tmp_path, AV_PHASE)
    with pytest.raises(
        CurriculumError, match="labels are for a phase of kind classifier, and the last, av, is of"
    ):
        learn(clips, output, phases=phases, labels=str(tmp_path))
    with pytest.raises(CurriculumError, match=r"is no finished set of labels: it holds no labels\.json"):
        learn(clips, output, labels=str(tmp_path))
    with pytest.raises(training.TrainingError, match="nowhere holds no trained encoder"):
        learn(clips, output, start_from="nowhere")
    phases = write_phases(tmp_path, CLASSIFIER_PHASE | {"freeze": True})
    with pytest.raises(
        CurriculumError, match=r"phase 1 \(classifier\): freeze keeps an encoder that has learned nothing"
    ):
        learn(clips, output, phases=phases)
    phases = write_phases(tmp_path, AV_PHASE)
    with pytest.raises(CurriculumError, match=r"num_clusters 7 was given, and no phase of .* has clusters"):
        learn(clips, output, phases=phases, num_clusters=7)
    assert not os.path.exists(output)


def test_it_is_a_command(clips, tmp_path):
    parser = arguments.make_parser(learn, "tfsound learn")
    path = str(tmp_path / "phases.json")
    said = arguments.call(parser, learn, [clips, "OUT", "--write-phases", path, "--num-clusters", "20"])
    assert said.startswith("wrote 4 phases")
