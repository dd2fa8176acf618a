"""Tests of tfsound.plots: what is in the figures, edge cases, and the PNG on disk."""

import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from tfsound import plots
from tfsound.plots import figures

ODD_NAMES = [
    "$x_{1$", "a\nb\tc", "犬の鳴き声", "собака", "_hidden", "", "\udc80.wav", "\\frac", "كلب", "a" * 500,
    "\x00", "100% {of} 'it'",
]  # fmt: skip


@pytest.fixture
def log_mels():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(frames, 8)) for frames in (20, 20, 10, 30)]


def read_png_size(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[-8:-4] == b"IEND"
    return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])


def spectrogram_axes(figure):
    return [axes for axes in figure.axes if axes.images]


def frame_color(axes):
    return to_hex(axes.spines["left"].get_edgecolor())


def test_neighbours_are_a_grid_with_titles_frames_and_one_scale(log_mels):
    figure = plots.plot_neighbours(
        log_mels,
        [0, 3],
        [[1, 2], [2, 0]],
        ["dog", "dog too", "cat", "rain"],
        correct=[[True, False], [False, False]],
        hop_seconds=0.5,
    )
    shown = spectrogram_axes(figure)
    assert [axes.get_title() for axes in shown] == [
        "Q: dog", "✓ dog too", "✗ cat", "Q: rain", "✗ cat", "✗ dog",
    ]  # fmt: skip
    colors = [frame_color(axes) for axes in shown]
    right, wrong = colors[1], colors[2]
    assert right != wrong
    assert colors == ["#000000", right, wrong, "#000000", wrong, wrong]
    assert len(figure.axes) == 7  # and the colour bar
    assert len({axes.images[0].get_clim() for axes in shown}) == 1
    assert shown[0].get_xlim() == (0, 15)  # the longest, 30 frames
    np.testing.assert_array_equal(shown[2].images[0].get_array(), log_mels[2].T)
    assert shown[2].images[0].get_extent() == [0, 5, -0.5, 7.5]
    assert figure.get_figwidth() * figure.dpi <= 1600


def test_neighbours_without_verdict_have_grey_frames(log_mels):
    figure = plots.plot_neighbours(log_mels, [0], [[1, 2]], list("abcd"))
    query, *neighbours = spectrogram_axes(figure)
    assert [axes.get_title() for axes in neighbours] == ["b", "c"]
    assert frame_color(neighbours[0]) == frame_color(neighbours[1]) != frame_color(query)


def test_frequency_ticks_stand_at_their_bands(log_mels):
    mel_hz = np.array([250, 500, 750, 1000, 1500, 2000, 3000, 3900])
    figure = plots.plot_neighbours(log_mels, [0], [[1]], list("abcd"), mel_hz=mel_hz)
    axes = spectrogram_axes(figure)[0]
    assert axes.get_yticks().tolist() == [1, 3, 5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.5", "1", "2"]
    assert figure.get_supylabel() == "frequency (kHz)"


def test_frequency_ticks_of_a_narrow_range_are_its_ends(log_mels):
    figure = plots.plot_neighbours(log_mels, [0], [[1]], list("abcd"), mel_hz=np.linspace(100, 200, 8))
    labels = spectrogram_axes(figure)[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["0.1", "0.2"]


@pytest.mark.parametrize(
    "log_mel",
    [np.zeros((5, 8)), np.full((5, 8), -np.inf), np.zeros((0, 8)), np.zeros((1, 1)), [[0.0, np.nan]]],
    ids=["constant", "infinite", "empty", "one value", "nan"],
)
def test_one_clip_without_neighbours(log_mel, tmp_path):
    figure = plots.plot_neighbours([log_mel], [0], np.zeros((1, 0)), ["only"])
    assert len(spectrogram_axes(figure)) == 1
    plots.save_figure(figure, tmp_path / "one.png")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_indices": []}, r"query_indices must be \(rows,\) with a row at least"),
        ({"neighbour_indices": [1, 2]}, r"neighbour_indices \(rows, k\), got \(1,\) and \(2,\)"),
        ({"neighbour_indices": [[4]]}, r"indices must be in \[0, 4\), got 0 to 4"),
        ({"neighbour_indices": [[-1]]}, "got -1 to 0"),
        ({"titles": ["a"]}, "titles must be one a clip: 4, got 1"),
        ({"correct": [True]}, r"correct must be \(1, 1\) as neighbours, got \(1,\)"),
        ({"mel_hz": [1.0, 2.0]}, r"mel_hz must be 8 ascending frequencies, got \(2,\)"),
        ({"mel_hz": np.arange(8)[::-1]}, "mel_hz must be 8 ascending"),
        ({"log_mels": [np.zeros((3, 8)), np.zeros((3, 9)), 0, 0]}, "with equal mel_bins, got"),
        ({"log_mels": [np.zeros(3)] * 4}, r"log_mels must be \(frames, mel_bins\)"),
    ],
)
def test_neighbours_errors(log_mels, changes, message):
    arguments = {
        "log_mels": log_mels,
        "query_indices": [0],
        "neighbour_indices": [[1]],
        "titles": list("abcd"),
    }
    with pytest.raises(ValueError, match=message):
        plots.plot_neighbours(**(arguments | changes))


def test_odd_names_are_drawn_as_they_are(tmp_path):
    clips = [np.eye(4)] * len(ODD_NAMES)
    count = np.arange(len(ODD_NAMES))
    figures = [
        plots.plot_neighbours(clips, [0], [count[1:]], ODD_NAMES),
        plots.plot_embedding_map(np.eye(len(ODD_NAMES))[:, :3], ODD_NAMES, title="$\n{"),
        plots.plot_scores([plots.ScoreRow(name, [0.5]) for name in ODD_NAMES], score_name="$_{"),
        plots.plot_training_log({name: [1.0, 2.0] for name in ODD_NAMES}),
    ]
    assert spectrogram_axes(figures[0])[4].get_title() == "_hidden"
    assert "_hidden" in [text.get_text() for text in figures[1].axes[0].get_legend().get_texts()]
    assert "$x_{1$" in [text.get_text() for text in figures[2].axes[0].get_yticklabels()]
    assert "a b c" in [axes.get_title() for axes in figures[3].axes]
    for figure in figures:
        plots.save_figure(figure, tmp_path / "odd.png")


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(8, 30))
def test_one_line_fits_and_keeps_both_ends(name, max_width):
    line = figures.one_line(name, max_width)
    assert sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in line) <= max_width
    assert "\n" not in line
    head, _, tail = line.partition("…") if "…" not in name else (line, "", "")
    clean = figures.one_line(name, 1000)
    assert clean.startswith(head)
    assert clean.endswith(tail)


def test_one_line_by_hand():
    assert figures.one_line("recording_2021.wav", 11) == "recor…1.wav"
    assert figures.one_line("recording", 9) == "recording"
    assert figures.one_line("犬犬犬犬犬", 7) == "犬…犬"


def test_embedding_map_has_a_marker_a_class(tmp_path):
    rng = np.random.default_rng(0)
    labels = [f"class {index % 50}" for index in range(150)]
    figure = plots.plot_embedding_map(rng.normal(size=(150, 60)), labels, title="A map")
    axes = figure.axes[0]
    assert axes.get_title() == "A map"
    assert axes.get_xlabel() == "t-SNE, perplexity 30; 150 of 150 segments"
    assert len(axes.get_legend().get_texts()) == 50
    looks = {
        (to_hex(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes()) for dots in axes.collections
    }
    assert len(looks) == 50
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == 150
    plots.save_figure(figure, tmp_path / "map.png")
    assert read_png_size(tmp_path / "map.png")[0] <= 1600


def test_embedding_map_puts_equal_directions_together():
    classes = np.arange(60) % 3
    embeddings = (1 + np.arange(60))[:, None] * (np.eye(3)[classes])
    noise = 0.01 * np.random.default_rng(0).normal(size=(60, 3))
    figure = plots.plot_embedding_map(embeddings + noise, [str(label) for label in classes])
    points = [np.asarray(dots.get_offsets()) for dots in figure.axes[0].collections]
    centres = np.stack([cloud.mean(axis=0) for cloud in points])
    for own, cloud in enumerate(points):
        distances = np.linalg.norm(cloud[:, None] - centres, axis=-1)
        assert (distances.argmin(axis=1) == own).all()


def test_rarer_classes_and_unlabelled_segments_are_grey():
    labels = [f"class {index}" for index in range(50) for _ in range(2)] + ["rare", "rarer", None]
    figure = plots.plot_embedding_map(np.random.default_rng(0).normal(size=(103, 4)), labels)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names[50:] == ["2 rarer classes", "unlabelled"]
    assert len(figure.axes[0].collections[-1].get_offsets()) == 1


def test_embedding_map_is_a_function_of_its_seed():
    embeddings = np.random.default_rng(0).normal(size=(80, 5))
    first, again, other = (
        plots.plot_embedding_map(embeddings, seed=seed, max_points=40).axes[0].collections[0].get_offsets()
        for seed in (1, 1, 2)
    )
    assert len(first) == 40
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("embeddings", "method"),
    [
        (np.ones((1, 3)), "all embeddings are equal"),
        (np.ones((40, 3)), "all embeddings are equal"),
        (np.zeros((40, 3)), "all embeddings are equal"),
        (np.arange(40.0)[:, None] - 20, "PCA"),
        (np.eye(2), "PCA"),
        (np.eye(9), "PCA"),
        (np.eye(10), "t-SNE, perplexity 3"),
        (np.eye(10).repeat(4, axis=0), "t-SNE, perplexity 13"),
    ],
)
def test_embedding_map_of_few_or_equal_rows(embeddings, method, tmp_path):
    figure = plots.plot_embedding_map(embeddings)
    axes = figure.axes[0]
    assert axes.get_xlabel() == f"{method}; {len(embeddings)} of {len(embeddings)} segments"
    assert np.isfinite(axes.collections[0].get_offsets()).all()
    assert axes.get_legend() is None
    plots.save_figure(figure, tmp_path / "few.png")


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (np.zeros((0, 3)), None, r"finite \(segments, dim\), not empty, got \(0, 3\)"),
        (np.zeros(3), None, r"got \(3,\)"),
        ([[np.nan]], None, "embeddings must be finite"),
        (np.zeros((2, 3)), ["a"], "labels must be one a segment: 2, got 1"),
    ],
)
def test_embedding_map_errors(embeddings, labels, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_embedding_map(embeddings, labels)


def test_scores_show_mean_spread_folds_and_chance():
    rows = [plots.ScoreRow("log mel", [0.4, 0.5, 0.6], 0.331), plots.ScoreRow("joint", [0.575])]
    axes = plots.plot_scores(rows).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["log mel", "joint"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.5, 0.575])
    assert [text.get_text() for text in axes.texts] == ["0.500 ± 0.100", "0.575"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "mean ± standard deviation", "fold or draw", "chance",
    ]  # fmt: skip
    assert axes.get_xlabel() == "mAP"


def test_scores_without_values_say_so(tmp_path):
    figure = plots.plot_scores([plots.ScoreRow("broken", [np.nan], np.nan)])
    assert [text.get_text() for text in figure.axes[0].texts] == ["no value"]
    plots.save_figure(figure, tmp_path / "scores.png")
    with pytest.raises(ValueError, match="rows must hold one representation"):
        plots.plot_scores([])


def test_training_log_has_a_panel_a_quantity():
    figure = plots.plot_training_log(
        {
            "step": [0, 10, 20],
            "loss": [3.0, 2.0, 1.0],
            "val_loss": [np.nan, 2.5, np.nan],
            "val_accuracy": [0.1, 0.2, 0.3],
            "norm": [np.nan] * 3,
        }
    )
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy", "norm"]
    training, validation = figure.axes[0].lines
    assert training.get_xdata().tolist() == [0, 10, 20]
    assert validation.get_xydata().tolist() == [[10, 2.5]]
    assert [text.get_text() for text in figure.axes[2].texts] == ["no finite value"]
    assert figure.get_supxlabel() == "step"


def test_training_log_counts_rows_without_steps(tmp_path):
    figure = plots.plot_training_log({"loss": [2.0, 1.0]})
    assert figure.axes[0].lines[0].get_xdata().tolist() == [0, 1]
    assert figure.get_supxlabel() == "row"
    plots.save_figure(plots.plot_training_log({"epoch": [], "loss": []}), tmp_path / "empty.png")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"step": [1, 2], "loss": [1]}, "equal lengths, got {'step': 2, 'loss': 1}"),
        ({"step": [1]}, r"a quantity beside step and epoch, got \['step'\]"),
        ({}, "must hold a quantity"),
    ],
)
def test_training_log_errors(columns, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_training_log(columns)


def test_save_figure_writes_a_png_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "scores.picture"
    figure = plots.plot_scores([plots.ScoreRow("a", [0.5])])
    plots.save_figure(figure, path)
    width, height = figure.get_size_inches() * figure.dpi
    assert read_png_size(path) == (int(width), int(height))
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "scores.png"
    path.write_bytes(b"old")
    figure = plots.plot_scores([plots.ScoreRow("a", [0.5])])

    def write_half(temporary, **_):
        with open(temporary, "wb") as file:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", write_half)
    with pytest.raises(OSError, match="disk full"):
        plots.save_figure(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_plots_need_no_pyplot():
    heavy = "{'matplotlib.pyplot', 'tensorflow'}"
    code = f"import sys, tfsound.plots; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_plot_curves_shows_mean_and_spread_over_the_number_of_labels():
    figure = plots.plot_curves(
        {"random": ([10, 100], [[0.2, 0.4], [0.5]]), "cluster": ([10], [[0.6]])},
        parameter_name="labels", score_name="mAP", log_axis=True,
    )  # fmt: skip
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_xdata().astype(float), [10, 100])
    np.testing.assert_allclose(axes.lines[0].get_ydata().astype(float), [0.3, 0.5])
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["random", "cluster"]


@pytest.mark.parametrize(
    ("curves", "message"),
    [({}, "no curve"), ({"a": ([1, 2], [[0.1]])}, "a: needs scores"), ({"a": ([0], [[0.1]])}, "above 0")],
)
def test_plot_curves_needs_scores_of_numbers_of_labels(curves, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_curves(curves, parameter_name="labels", score_name="mAP", log_axis=True)


def test_plot_sweep_shows_mean_spread_and_the_paper():
    figure = plots.plot_sweep(
        [0.1, 0.5], [[0.2, 0.4], [0.5]], [0.45, 0.48], parameter_name="noise_stddev", score_name="mAP"
    )
    ours, theirs = figure.axes
    np.testing.assert_allclose(ours.lines[0].get_ydata().astype(float), [0.3, 0.5])
    np.testing.assert_allclose(theirs.lines[0].get_ydata(), [0.45, 0.48])
    assert [tick.get_text() for tick in ours.get_xticklabels()] == ["0.1", "0.5"]
    assert ours.get_xlabel() == "noise_stddev"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "ours, mean ± standard deviation over folds", "the paper"
    ]  # fmt: skip


def test_a_single_fold_has_no_spread():
    figure = plots.plot_sweep([0.1, 0.5], [[0.3], [0.5]], [0.4, 0.5], parameter_name="S", score_name="mAP")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "the paper"]
    (bars,) = figure.axes[0].collections
    assert not any(len(segment) for segment in bars.get_segments())


def test_plot_sweep_needs_a_score_a_value():
    with pytest.raises(ValueError, match="equally many, got 2, 1 and 2"):
        plots.plot_sweep([0, 1], [[0.1]], [0.2, 0.3], parameter_name="S", score_name="mAP")


def test_pictures_stand_beside_the_sound_that_they_were_found_for():
    rng = np.random.default_rng(0)
    sounds = [rng.normal(size=(96, 64)), rng.normal(size=(50, 64))]
    pictures = rng.uniform(size=(2, 3, 16, 16, 3))
    figure = plots.plot_found_pictures(
        sounds, pictures, ["$one", "two"], correct=[[True, False, False], [False, False, True]], title="found"
    )
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["$one", "1. ✓", "2. ✗", "3. ✗", "two", "1. ✗", "2. ✗", "3. ✓"]
    np.testing.assert_array_equal(figure.axes[7].images[0].get_array(), pictures[1, 2])


@pytest.mark.parametrize(
    ("pictures", "titles", "correct", "message"),
    [
        ([], [], None, r"got 1, 0 and 0 rows of \[\] pictures"),
        ([[]], ["one"], None, r"1 rows of \[0\] pictures"),
        (np.zeros((1, 2, 4, 4, 3)), ["one"], [[True]], r"correct must be \(1, 2\) as pictures, got \(1, 1\)"),
    ],
)
def test_found_pictures_that_do_not_fit(pictures, titles, correct, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_found_pictures([np.zeros((8, 4))], pictures, titles, correct=correct)
