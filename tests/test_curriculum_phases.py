"""Tests of the phases of tfsound.curriculum: the paper's, what is none, and their file."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsound.curriculum import (
    CLASSIFIER,
    COINCIDENCE,
    PAPER_CURRICULUM,
    TRIPLETS,
    CurriculumError,
    Phase,
    audio_only,
    format_phases,
    loss_weights,
    parse_phases,
)
from tfsound.curriculum.phases import require_order

AV, AA = "audio_image", "audio_audio"


# Phases.


def test_the_curriculum_is_that_of_the_paper():
    # Section 3.4, with the weights of section 4.
    assert [phase.name for phase in PAPER_CURRICULUM] == ["av", "av+aa", "clusters", "classifier"]
    assert [phase.modalities for phase in PAPER_CURRICULUM] == [(AV,), (AV, AA), (AV, AA), ()]
    assert [phase.num_clusters > 0 for phase in PAPER_CURRICULUM] == [False, False, True, False]
    for phase in PAPER_CURRICULUM[:3]:
        assert (phase.audio_audio_weight, phase.cluster_weight, phase.diversity_weight) == (0.1, 0.1, 1.1)
        assert (phase.max_time_gap_seconds, phase.patience_intervals > 0) == (10.0, True)
        assert phase.learning_rate_decay == "constant"  # for an end that nobody knows beforehand
    require_order(PAPER_CURRICULUM)


def test_sound_alone_goes_without_av():
    phases = audio_only(PAPER_CURRICULUM)
    assert [(phase.name, phase.modalities) for phase in phases] == [
        ("aa", (AA,)), ("clusters", (AA,)), ("classifier", ()),
    ]  # fmt: skip
    assert audio_only(phases) == phases
    assert not any(phase.needs_images for phase in phases)
    assert phases[1] == dataclasses.replace(PAPER_CURRICULUM[2], modalities=(AA,))


def test_weights_of_losses_are_those_of_section_3_4():
    av, av_and_aa, clusters, classifier = (loss_weights(phase) for phase in PAPER_CURRICULUM)
    assert av == {"audio_image_weight": 1.0}
    assert av_and_aa == {"audio_image_weight": 0.9, "audio_audio_weight": 0.1}
    assert clusters == {
        "audio_image_weight": pytest.approx(0.81), "audio_audio_weight": pytest.approx(0.09),
        "cluster_weight": 0.1,
    }  # fmt: skip
    assert classifier == {"classification_weight": 1.0}
    assert loss_weights(audio_only(PAPER_CURRICULUM)[1]) == {
        "audio_audio_weight": 0.9, "cluster_weight": 0.1,
    }  # fmt: skip
    # One kind of pairs has nothing to be weighed against.
    assert loss_weights(Phase("a", COINCIDENCE, modalities=(AV,), audio_audio_weight=1.0)) == {
        "audio_image_weight": 1.0
    }
    assert loss_weights(Phase("a", TRIPLETS, constraints=("labels",))) == {"triplet_weight": 1.0}


NUMBERS = {
    "num_steps": st.integers(1, 10**9), "patience_intervals": st.integers(0, 100),
    "steps_per_checkpoint": st.integers(1, 10**9), "batch_size": st.integers(2, 100),
    "learning_rate": st.floats(1e-12, 1e3), "learning_rate_decay": st.sampled_from(["constant", "cosine"]),
}  # fmt: skip
OF_PAIRS = {
    "modalities": st.lists(st.sampled_from([AV, AA]), min_size=1, unique=True).map(tuple),
    "audio_audio_weight": st.floats(0, 1), "cluster_weight": st.floats(0, 1),
    "diversity_weight": st.floats(0, 100), "num_clusters": st.just(0) | st.just(7),
    "max_time_gap_seconds": st.floats(1e-3, 1e9), "num_examples": st.integers(100, 10**9),
}  # fmt: skip
NAMES = st.from_regex(r"[a-z0-9][a-z0-9+_-]{0,39}", fullmatch=True)
PAIR_PHASES = st.builds(Phase, name=NAMES, kind=st.just(COINCIDENCE), **NUMBERS, **OF_PAIRS)
TRIPLET_PHASES = st.builds(
    Phase, name=NAMES, kind=st.just(TRIPLETS), constraints=st.just(("noise:0.5", "labels")), **NUMBERS
)
OF_CLASSIFIERS = {
    "multi_label": st.booleans(), "hard": st.booleans(), "freeze": st.booleans(),
    "class_balance": st.sampled_from(["natural", "uniform"]),
}  # fmt: skip
CLASSIFIER_PHASES = st.builds(Phase, name=NAMES, kind=st.just(CLASSIFIER), **NUMBERS, **OF_CLASSIFIERS)


@st.composite
def curricula(draw):
    phases = [*draw(st.lists(TRIPLET_PHASES, max_size=1)), *draw(st.lists(PAIR_PHASES, max_size=3))]
    phases += draw(st.lists(CLASSIFIER_PHASES, min_size=not phases, max_size=1))
    return tuple(
        dataclasses.replace(phase, name=f"{number}{phase.name[:30]}") for number, phase in enumerate(phases)
    )


@given(phase=PAIR_PHASES)
def test_weights_of_losses_add_up_to_1(phase):
    weights = loss_weights(phase)
    assert sum(weights.values()) == pytest.approx(1.0)
    assert min(weights.values()) >= 0
    assert len(weights) == len(phase.modalities) + (phase.num_clusters > 0)


OF_CLASSIFIER = {"kind": CLASSIFIER, "modalities": ()}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "AV"}, "name must be a name of at most 40 small letters, digits, .*, got 'AV'"),
        ({"name": "../av"}, "name must be a name of"),
        ({"name": 7}, "name must be a name of .*, got 7"),
        ({"kind": "supervised"}, "kind must be one of coincidence, classifier, triplets, got 'supervised'"),
        ({"num_steps": 0}, "num_steps must be a whole number from 1 to 1e\\+09, got 0"),
        ({"num_steps": 1.5}, "num_steps must be a whole number from .*, got 1.5"),
        ({"num_steps": True}, "num_steps must be a whole number from .*, got True"),
        ({"patience_intervals": -1}, "patience_intervals must be a whole number from 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a number from 1e-12 to 1000, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number from .*, got nan"),
        ({"learning_rate_decay": "step"}, "learning_rate_decay must be one of constant, cosine, got 'step'"),
        ({"audio_audio_weight": 1.1}, "audio_audio_weight must be a number from 0 to 1, got 1.1"),
        ({"modalities": ()}, r"modalities must be one word or several, none twice, got \(\)"),
        ({"modalities": "audio_image"}, "modalities must be one word or several, none twice, got 'audio_im"),
        ({"modalities": (AV, AV)}, "modalities must be one word or several, none twice"),
        ({"modalities": (AV, 3)}, "modalities must be one word or several"),
        ({"modalities": ("smell",)}, "modalities must be audio_audio, audio_image or both, got .'smell'"),
        ({"num_clusters": 1}, "num_clusters must be 0 or at least 2, got 1"),
        ({"num_clusters": 40_001}, "num_clusters must be at most the windows of num_examples pairs, 40000"),
        ({"batch_size": 1}, "batch_size must be from 2, for a pair alone has no negative, to num_examples"),
        ({"batch_size": 64, "num_examples": 63}, "batch_size must be from 2, .* to num_examples, 63, got 64"),
        ({"constraints": ("noise:1",)}, "constraints is no field of a phase of kind coincidence; remove it"),
        ({"kind": CLASSIFIER}, "modalities is no field of a phase of kind classifier; remove it"),
        ({"kind": TRIPLETS, "modalities": ()}, "constraints must be one word or several"),
        ({"freeze": True}, "freeze is no field of a phase of kind coincidence; remove it"),
        ({"multi_label": False}, "multi_label is no field of a phase of kind coincidence; remove it"),
        ({"class_balance": "uniform"}, "class_balance is no field of a phase of kind coincidence"),
        (OF_CLASSIFIER | {"class_balance": "even"}, "class_balance must be one of natural, uniform, got 'ev"),
        (OF_CLASSIFIER | {"multi_label": 1}, "multi_label must be true or false, got 1"),
        (OF_CLASSIFIER | {"hard": None}, "hard must be true or false, got None"),
        (OF_CLASSIFIER | {"freeze": "yes"}, "freeze must be true or false, got 'yes'"),
    ],
)
def test_a_phase_that_is_none_is_refused(fields, message):
    with pytest.raises(CurriculumError, match=message):
        Phase(**({"name": "aa", "kind": COINCIDENCE, "modalities": (AA,)} | fields))


def pair_phase(name, **fields):
    return Phase(name, COINCIDENCE, **({"modalities": (AA,)} | fields))


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([], "there are no phases; expected at least one"),
        ([pair_phase("a"), pair_phase("a")], r"phase 2 \(a\): name is that of an earlier phase"),
        (
            [pair_phase("a"), Phase("b", TRIPLETS, constraints=("labels",))],
            r"phase 2 \(b\): kind triplets starts from no other run; put it first",
        ),
        (
            [Phase("b", CLASSIFIER), pair_phase("a")],
            r"phase 1 \(b\): kind classifier leaves nothing to go on from; put it last",
        ),
        (
            [pair_phase("a", num_clusters=3), pair_phase("b", num_clusters=4)],
            r"phase 2 \(b\): num_clusters is 4, that of the phase before is 3; use the same",
        ),
    ],
)
def test_phases_that_cannot_follow_each_other_are_refused(phases, message):
    with pytest.raises(CurriculumError, match=message):
        require_order(phases)


# Their file.


@given(phases=curricula())
def test_what_is_written_is_read_back(phases):
    text = format_phases(phases)
    assert parse_phases(text, "phases.json") == phases
    assert parse_phases(text.encode(), "phases.json") == phases


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from([AV, AA, COINCIDENCE, "constant", 10**400, -1, 0, 1]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=9), values, max_size=3),
    max_leaves=8,
)  # fmt: skip
RECORDS = st.dictionaries(
    st.sampled_from([field.name for field in dataclasses.fields(Phase)]) | st.text(max_size=9), JSON_VALUES
)


def parses_or_says_why(text):
    try:
        phases = parse_phases(text, "phases.json")
    except CurriculumError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert parse_phases(format_phases(phases), "again") == phases
    assert refusal.startswith("phases.json") or not refusal


@given(text=st.text() | st.binary())
def test_any_text_is_phases_or_is_refused(text):
    parses_or_says_why(text)


@given(records=JSON_VALUES | st.lists(RECORDS, max_size=3))
def test_any_json_is_phases_or_is_refused(records):
    parses_or_says_why(json.dumps(records))


@given(phases=curricula(), data=st.data())
def test_a_file_with_one_thing_changed_is_phases_or_is_refused(phases, data):
    records = json.loads(format_phases(phases))
    record = data.draw(st.sampled_from(records))
    name = data.draw(st.sampled_from(sorted(record)))
    if data.draw(st.booleans()):
        del record[name]
    else:
        record[name] = data.draw(JSON_VALUES)
    parses_or_says_why(json.dumps(records))
    text = format_phases(phases).encode()
    position = data.draw(st.integers(0, len(text) - 1))
    parses_or_says_why(text[:position])
    parses_or_says_why(text[:position] + data.draw(st.binary(max_size=2)) + text[position + 1 :])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p.json is not JSON .*`tfsound learn --write-phases` writes a file"),
        (b"\xff[]", "p.json is not JSON"),
        ("[" * 100_000, "p.json is not JSON"),
        ("{}", "p.json holds dict, expected a list of phases"),
        ("[]", "p.json: there are no phases"),
        ("[3]", "p.json, phase 1 is int, expected an object of fields"),
        ('[{"kind": "classifier"}]', "p.json, phase 1: name is missing; add it"),
        ('[{"name": "a"}]', r"p.json, phase 1 \(a\): kind is missing; add it"),
        (
            '[{"name": "a", "kind": "classifier", "steps": 3}]',
            r"p.json, phase 1 \(a\): unknown field 'steps'; fields are name, kind, num_steps, patience_inte",
        ),
        (
            '[{"name": "a", "kind": "classifier", "num_steps": "many"}]',
            r"p.json, phase 1 \(a\): num_steps must be a whole number from 1 to 1e\+09, got 'many'",
        ),
        (
            '[{"name": "a", "kind": "classifier"}, {"name": "b", "kind": "classifier"}]',
            r"p.json: phase 1 \(a\): kind classifier leaves nothing to go on from",
        ),
    ],
)
def test_a_bad_file_is_named_with_phase_and_field(text, message):
    with pytest.raises(CurriculumError, match=message):
        parse_phases(text, "p.json")
