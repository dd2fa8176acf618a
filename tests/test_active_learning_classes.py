"""Lists of classes: what is read, what is refused and how that is said."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import active_learning_sets as sets
from tfsound import active_learning as al

names = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters=";"),
    min_size=1,
    max_size=12,
).filter(lambda name: name == name.strip())


def write(tmp_path, data, name="classes.csv"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def test_csv_by_hand(tmp_path):
    path = write(
        tmp_path, '\ufeffparents,name,display_name\n,animal,\n animal ,"dog","Dog, big"\n\nanimal;dog,pup,\n'
    )
    assert al.read_classes(path) == [
        al.SoundClass("animal", "animal", ()),
        al.SoundClass("dog", "Dog, big", ("animal",)),
        al.SoundClass("pup", "pup", ("animal", "dog")),
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_plain_text_is_one_name_a_line(tmp_path, line_end):
    path = write(tmp_path, line_end.join(["Male speech, man speaking", "", "  Hund ", "犬"]), "classes.txt")
    assert [c.name for c in al.read_classes(path)] == ["Male speech, man speaking", "Hund", "犬"]


def test_paths_from_the_top():
    classes = [al.SoundClass("animal"), al.SoundClass("dog", parents=("animal",))]
    classes.append(al.SoundClass("bark", parents=("dog", "animal")))
    assert al.ancestors(classes) == {"animal": (), "dog": ("animal",), "bark": ("animal", "dog")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found no class, expected at least one"),
        ("name\n", "found no class"),
        ("dog\ncat\ndog\n", "class 3: 'dog' is there twice"),
        ("name,parents\ndog,animal\n", "'dog' has the parent 'animal', which is not in the list"),
        ("name,parents\ndog,dog\n", "'dog' > 'dog' is a circle of parents"),
        ("name,parents\nx,a\na,c\nb,a\nc,b\n", "'a' > 'c' > 'b' > 'a' is a circle"),
        ("do\x00g\n", "found 'do.x00g', expected a name without"),
        ("dog;cat\n", "found 'dog;cat', expected a name without `;`"),
        ("name,colour\ndog,red\n", r"found the columns \['name', 'colour'\], expected name, display_name"),
        ("name,name\ndog,cat\n", "each once"),
        ("name,display_name\ndog\n", "line 2: found 1 fields, expected 2"),
        ('name\n"dog\n', "not CSV"),
        (b"d\xf6g\n", "not UTF-8 text"),
        (
            "cat\nr\xe9veil\n".encode("latin-1"),
            r"found b'.xe9' in line 2; it may be Latin-1: save it as UTF-8, with `iconv -f WINDOWS-1252",
        ),
        ("dog\n".encode("utf-16"), "begins as UTF-16 does: save it as UTF-8, with `iconv -f UTF-16 -t UTF-8"),
        (b"\xfe\xff" + "dog".encode("utf-16-be"), "in line 1; it begins as UTF-16 does"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "it holds zero bytes, as files that are no text do: name a text"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_used_say_why(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(al.ActiveLearningError, match=message) as error:
        al.read_classes(path)
    assert path in str(error.value)


def test_a_list_that_cannot_be_read_back_is_not_written(tmp_path):
    path = tmp_path / "classes.csv"
    al.write_classes(str(path), [al.SoundClass("dog")])
    for classes in ([], [al.SoundClass("a"), al.SoundClass("a")], [al.SoundClass("a", parents=("b",))]):
        with pytest.raises(al.ActiveLearningError):
            al.write_classes(str(path), classes)
    assert [file.name for file in tmp_path.iterdir()] == ["classes.csv"]
    assert al.read_classes(str(path)) == [al.SoundClass("dog")]


@given(
    st.lists(
        st.tuples(names, names | st.just(""), st.sets(st.integers(0, 20))),
        min_size=1,
        unique_by=lambda c: c[0],
    )
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, drawn):
    """Parents are earlier classes, so there is no circle."""
    classes = []
    for number, (name, display_name, parents) in enumerate(drawn):
        earlier = tuple(sorted({drawn[parent % number][0] for parent in parents})) if number else ()
        classes.append(al.SoundClass(name, display_name, earlier))
    path = str(tmp_path_factory.mktemp("classes") / "classes.csv")
    al.write_classes(path, classes)
    assert al.read_classes(path) == classes


@given(
    st.binary(max_size=200)
    | st.text(st.sampled_from('name,;"\n\r\\display_parents dog'), max_size=80).map(str.encode)
)
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_list_or_a_clear_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "classes.csv"
    path.write_bytes(data)
    classes, problem = sets.attempt(al.read_classes, str(path))
    assert (str(path) in problem) == (classes is None)
    if classes is not None:
        assert len({c.name for c in classes}) == len(classes) >= 1


def audioset_folder(tmp_path, ontology, indices):
    write(tmp_path, ontology if isinstance(ontology, str) else json.dumps(ontology), "ontology.json")
    write(tmp_path, indices, "class_labels_indices.csv")
    return str(tmp_path)


INDICES = 'index,mid,display_name\n0,/m/1,"Speech, talk"\n1,/m/2,Whisper\n2,/m/3,Dog\n'


def node(mid, *children):
    return {"id": mid, "name": mid.upper(), "child_ids": list(children), "restrictions": []}


def test_audioset_passes_over_headings(tmp_path):
    nodes = [
        node("/m/top", "/m/1", "/m/3"),
        node("/m/1", "/m/4"),
        node("/m/4", "/m/2"),
        node("/m/2"),
        node("/m/3"),
    ]
    classes = al.read_classes(audioset_folder(tmp_path, nodes, INDICES))
    assert [(c.name, c.parents) for c in classes] == [
        ("Speech, talk", ()), ("Whisper", ("Speech, talk",)), ("Dog", ()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ontology", "indices", "message"),
    [
        ("[", INDICES, "expected JSON"),
        ({"id": "x"}, INDICES, "expected a list of objects"),
        ([{"id": 3, "child_ids": []}], INDICES, "entry 0: id must be text, got 3"),
        ([node("/m/1"), node("/m/2")], INDICES, r"lacks 'Dog' \(/m/3\)"),
        ([node("/m/1", "/m/2"), node("/m/2", "/m/1"), node("/m/3")], INDICES, "is a circle of parents"),
        ([node("/m/1")], "mid,name\n/m/1,x\n", "found the columns"),
    ],
)
def test_audioset_files_that_are_none(tmp_path, ontology, indices, message):
    with pytest.raises(al.ActiveLearningError, match=message):
        al.read_classes(audioset_folder(tmp_path, ontology, indices))


def test_audioset_itself(shared_data):
    classes = al.read_classes(str(shared_data / "audioset"))
    assert len(classes) == 527
    paths = al.ancestors(classes)
    assert paths["Car alarm"] == ("Vehicle", "Motor vehicle (road)", "Car")
    assert paths["Male speech, man speaking"] == ("Speech",)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda v: st.lists(v) | st.dictionaries(st.sampled_from(["id", "child_ids", "name"]), v),
        max_leaves=12,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_json_is_an_ontology_or_a_clear_error(tmp_path_factory, value):
    folder = audioset_folder(tmp_path_factory.mktemp("fuzz"), json.dumps(value), INDICES)
    with pytest.raises(al.ActiveLearningError):  # none of these holds all three classes
        al.read_classes(folder)
