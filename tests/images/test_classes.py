"""The map from folders to outputs, the file that may say it, and classes named on the command line."""

import os
import re

import pytest

from utils.command_line import flags
from utils.command_line.parser import Parser
from utils.errors import UserError
from utils.images.folders import ClassMap, imagenet_classes, map_folders, read_class_map

WORDNET_IDS = list(imagenet_classes())
NAMES = [f"class {number:03d}" for number in range(1000)]


def strings(numbers):
    """As a folder is listed: "10" before "2"."""
    return sorted(map(str, numbers))


# --------------------------------------------------------------------------------------------------------------------
# Which folder is which output


def test_as_many_folders_as_outputs_map_in_order():
    assert map_folders(["cat", "dog"], 2) == {"cat": 0, "dog": 1}
    assert map_folders(NAMES, 1000)["class 010"] == 10


@pytest.mark.parametrize("folders", [strings(range(1000)), strings(range(0, 1000, 7)), ["10", "2"]])
@pytest.mark.parametrize("known", [False, True])
def test_folders_named_by_outputs_are_these_outputs_however_they_sort(folders, known):
    found = map_folders(folders, 1000, has_imagenet_classes=known)
    assert found == {folder: int(folder) for folder in folders}


@pytest.mark.parametrize(
    ("folders", "other"),
    [
        (strings(range(1, 13)), "12"),
        (["000", "001", "002"], "000"),
        (["-1", "0"], "-1"),
        (["0", "00"], "00"),
        (["0", "9" * 5000], f"{'9' * 40}\\.\\.\\."),
    ],
)
def test_other_integers_are_refused_and_a_class_map_is_proposed(folders, other):
    with pytest.raises(UserError, match=f"named 0 to 11, .* '{other}' is not: .*--class_map FILE") as error:
        map_folders(folders, 12)
    assert len(str(error.value)) < 250


def test_only_ascii_digits_make_an_integer():
    assert map_folders(["٠", "٢"], 2) == {"٠": 0, "٢": 1}
    with pytest.raises(UserError, match="no class folder '٢'"):
        ClassMap({"cat": 0, "dog": 1, "bee": 2}).resolve([["٢"]], 3)


def test_imagenet_and_its_subsets_map_by_wordnet_id():
    assert len(WORDNET_IDS) == 1000
    assert sorted(WORDNET_IDS) == WORDNET_IDS
    for known in (False, True):
        assert map_folders(["n03196217", "n07715103"], 1000, has_imagenet_classes=known) == {
            "n03196217": 530,
            "n07715103": 938,
        }
        assert list(map_folders(WORDNET_IDS, 1000, has_imagenet_classes=known).values()) == list(range(1000))
    # the rule goes by the ids: it would also hold if their order were another one
    assert map_folders(WORDNET_IDS[::-1], 1000)["n03196217"] == 530


def test_named_weights_take_no_class_names_in_their_order():
    with pytest.raises(UserError, match=r"pretrained weights .* class 000 is not a WordNet id .*--class_map"):
        map_folders(NAMES, 1000, has_imagenet_classes=True)
    with pytest.raises(UserError, match="1000 outputs but train/ has 999"):
        map_folders(NAMES[:999], 1000, has_imagenet_classes=True)


@pytest.mark.parametrize(
    ("folders", "outputs", "message"),
    [
        (["cat", "dog"], 3, "3 outputs but train/ has 2 .*--class_map"),
        (["n03196217", "cat"], 1000, "cat is not a WordNet id .*--class_map"),
        (["n03196217", "n07715103"], 999, "999 outputs but train/ has 2"),
        (["1", "cat"], 3, "3 outputs but train/ has 2"),
    ],
)
def test_folders_that_cannot_be_mapped_are_refused(folders, outputs, message):
    with pytest.raises(UserError, match=message):
        map_folders(folders, outputs)


# --------------------------------------------------------------------------------------------------------------------
# The file that says it


@pytest.fixture
def class_map(tmp_path):
    def write(content):
        path = tmp_path / "classes.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_a_class_map_decides(class_map):
    path = class_map('folder,output\n"cat, black",2\n1,0\n\nnobody,1\n2, 3 \n')
    found = read_class_map(path)
    assert found == {"cat, black": 2, "1": 0, "nobody": 1, "2": 3}
    for known in (False, True):
        mapped = map_folders(["1", "2", "cat, black"], 4, has_imagenet_classes=known, class_map=found)
        assert list(mapped.items()) == [("1", 0), ("2", 3), ("cat, black", 2)]
    # before all other rules
    assert map_folders(["0", "1"], 2, class_map={"0": 1, "1": 0}) == {"0": 1, "1": 0}


def test_a_class_map_of_a_spreadsheet_and_of_names_that_are_no_text(class_map):
    assert read_class_map(class_map(b"\xef\xbb\xbffolder,output\r\nk\xc3\xa4fer,1\r\n\xff,0\r\n")) == {
        "käfer": 1,
        os.fsdecode(b"\xff"): 0,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "header must be folder,output, not ''"),
        ("cat,0\n", "header must be folder,output, not 'cat,0'"),
        ("folder;output\ncat;0\n", "header must be folder,output"),
        (b"\x89PNG\x1b[31m" + bytes(range(1, 9)) * 999, r"header must be folder,output, not '[^\x1b]{1,200}'$"),
        ("folder,output\ncat,0\ndog,one\n", "line 3: the output must be a whole number from 0, not 'one'"),
        ("folder,output\ncat,-1\n", "whole number from 0, not '-1'"),
        ("folder,output\ncat,1.0\n", "whole number from 0, not '1.0'"),
        ("folder,output\ncat,٣\n", "whole number from 0"),
        (f"folder,output\ncat,{'1' * 5000}\n", "whole number from 0, not '1{40}...'"),
        ("folder,output\ncat\n", "line 2: it must have a folder and an output, not 1 values"),
        ("folder,output\ncat,0,1\n", "not 3 values"),
        ("folder,output\ncat,0\ncat,1\n", "line 3: folder 'cat' occurs twice"),
        ("folder,output\ncat,0\ndog,0\n", "line 3: output 0 has two folders, 'cat' and 'dog'"),
        ("folder,output\n" + "x" * 200_000 + ",0\n", "field larger than"),
    ],
)
def test_a_class_map_that_cannot_be_used_is_refused(class_map, content, message):
    with pytest.raises(UserError, match=message) as error:
        read_class_map(class_map(content))
    assert str(error.value).startswith("--class_map ")
    assert "\n" not in str(error.value)


def test_a_class_map_that_is_not_there_or_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--class_map .*none.csv: No such file"):
        read_class_map(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"--class_map .*: Is a directory"):
        read_class_map(tmp_path)
    with pytest.raises(UserError, match="no row for class folder 'bee'"):
        map_folders(["ant", "bee"], 9, class_map={"ant": 0, "cat": 1})
    with pytest.raises(UserError, match="'ant' has output 2, but the network has outputs 0 to 1"):
        map_folders(["ant"], 2, class_map={"ant": 2})


def test_the_flag_takes_a_file():
    parser = Parser("a script")
    flags.add_class_map_flag(parser)
    assert parser.parse_args([]).class_map is None
    assert parser.parse_args(["--class_map", "classes.csv"]).class_map == "classes.csv"
    assert "folder,output" in parser.format_help()


# --------------------------------------------------------------------------------------------------------------------
# Classes on the command line


def test_classes_are_given_by_output_or_by_folder():
    classes = ClassMap({"n03196217": 530, "n07715103": 938, "cat": 7})
    assert classes.resolve([["938", "cat"], ["n03196217"]], 1000) == [[7, 938], [530]]
    assert classes.resolve([[938], ["cat/"]], 1000) == [[938], [7]]
    assert classes.concept_name([530, 7]) == "digital clock + cat"


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        ([["1"], ["5"]], "concept2: class 5 is out of range"),
        ([["1"], ["-1"]], "out of range"),
        ([["1"], ["3"]], "class 3 has no folder"),
        ([["1"], ["dog"]], "no class folder 'dog', and no class of that name; for example: "),
        ([["1"], ["clok"]], "no class folder 'clok', and no class of that name; similar: digital clock"),
        ([["1"], ["digital clock/"]], "no class folder 'digital clock/', and no class of that name; similar: digital"),
        ([["2"], ["Digital_Clock"]], "concept2: class 2 is in --classes_for_concept1 too"),
        ([["1"], ["cat"]], "concept2: class 1 is in --classes_for_concept1 too"),
        ([["1", "1"], ["0"]], "only once"),
    ],
)
def test_classes_that_cannot_be_used_are_refused(concepts, message):
    with pytest.raises(UserError, match=message):
        ClassMap({"cat": 1, "bird": 0, "n03196217": 2}).resolve(concepts, 5)


def test_classes_are_given_by_names_that_one_of_them_has():
    names = {"n03196217": 530, "n02099712": 208, "n02113186": 264, "n02963159": 474, "n02012849": 134, "n03126707": 517}
    classes = ClassMap({**names, "barn": 3, "Barn": 4, "a_b": 5})
    given = ["digital clock", "DIGITAL  clock", "digital_clock", "labrador-Retriever", "barn", "Barn", "A b"]
    assert [classes.resolve([[one]], 1000) for one in given] == [[[n]] for n in (530, 530, 530, 208, 3, 4, 5)]
    # as they are printed, these two can be told apart
    assert classes.resolve([["cardigan"], ["Cardigan"]], 1000) == [[474], [264]]
    for text, choices in (
        ("crane", "crane (134, n02012849), crane (517, n03126707)"),
        ("CARDIGAN", "Cardigan (264, n02113186), cardigan (474, n02963159)"),
        ("BARN", "barn (3), Barn (4)"),
    ):
        with pytest.raises(UserError) as error:
            classes.resolve([["3"], [text]], 1000)
        assert str(error.value) == f"--classes_for_concept2: '{text}' is the name of 2 classes: {choices}"


def test_folders_and_outputs_come_before_names():
    """A folder may have the name that ImageNet gives another one, and a number is an output whatever it is called."""
    classes = ClassMap({"n02793495": 425, "barn": 0, "n03196217": 1})
    assert classes.resolve([["barn"]], 1000) == [[0]]
    with pytest.raises(UserError, match=r"'Barn' is the name of 2 classes: barn \(0\), barn \(425, n02793495\)$"):
        classes.resolve([["Barn"]], 1000)
    with pytest.raises(UserError, match="class 7 has no folder"):
        ClassMap({"seven": 0, "n03196217": 1}).resolve([["7"]], 1000)


def test_the_nearest_names_come_first_and_are_few():
    classes = ClassMap({wnid: output for output, wnid in enumerate(imagenet_classes())})
    for given, first in (("barns", "barn (425"), ("caulflower", "cauliflower (938"), ("egyptian", "Egyptian cat (285")):
        with pytest.raises(UserError, match=f"similar: {re.escape(first)}") as error:
            classes.resolve([[given]], 1000)
        assert str(error.value).count(", n0") <= 5
    with pytest.raises(UserError, match="for example: ") as error:  # none is similar
        classes.resolve([["qqqq"]], 1000)
    assert str(error.value).count(", n0") == 3
    with pytest.raises(UserError, match=r"for example: hog \(1\), "):
        ClassMap({"goldfish": 0, "hog": 1, "tractor": 2}).resolve([["dog"]], 3)


def test_a_class_of_imagenet_without_a_folder_is_said_to_be_one():
    """Near it are classes that have a folder and share a word, not whatever looks least different."""
    classes = ClassMap({"n02708093": 409, "n02793495": 425, "n02123045": 281})  # analog clock, barn, tabby
    without = "is a class of ImageNet but has no folder, and so no images, in train/"
    for given, message in (
        ("Digital_clock", f"digital clock (n03196217) {without}; similar: analog clock (409, n02708093)"),
        ("n03196217", f"digital clock (n03196217) {without}"),
        ("crane", f"crane (n02012849) or crane (n03126707) {without}"),
        (
            "clock tower",
            "there is no class folder 'clock tower', and no class of that name; similar: analog clock (409, n0",
        ),
    ):
        with pytest.raises(UserError) as error:
            classes.resolve([["281"], [given]], 1000)
        assert str(error.value).startswith(f"--classes_for_concept2: {message}")
        assert ("similar" in str(error.value)) == ("similar" in message)
    with pytest.raises(UserError, match="no class folder 'digital clock', and no class of that name"):
        ClassMap({"cat": 1, "bird": 0}).resolve([["digital clock"]], 2)  # nothing here is of ImageNet


@pytest.mark.parametrize("given", ["9" * 5000, "-" + "9" * 5000, "x" * 5000, "0" * 5000 + "7"])
def test_thousands_of_characters_are_not_repeated(given):
    with pytest.raises(UserError) as error:
        ClassMap({"cat": 1}).resolve([[given]], 5)
    assert len(str(error.value)) < 150
    assert given[:40] in str(error.value)


def test_an_integer_with_two_meanings_is_refused_and_a_slash_tells_them_apart():
    classes = ClassMap({"1": 0, "2": 1, "3": 2, "7": 3})  # with a class map: counted from 1
    for given, meant in (("1", "output 1 and also the folder of output 0: write 2/ or 1/"), ("3", "write 7/ or 3/")):
        with pytest.raises(UserError, match=meant):
            classes.resolve([[given]], 5)
    with pytest.raises(UserError, match="4 is output 4 and also the folder of output 0: write 4/, the"):
        ClassMap({"4": 0}).resolve([["4"]], 5)
    assert classes.resolve([["1/"], ["2/", "7/"]], 5) == [[0], [1, 3]]
    assert classes.resolve([["0"], [1, 2]], 5) == [[0], [1, 2]]  # numbers that are no text are outputs
    with pytest.raises(UserError, match="class 7 is out of range"):
        classes.resolve([["7"]], 5)
    assert ClassMap({"0": 0, "1": 1}).resolve([["1"], ["0"]], 5) == [[1], [0]]  # one meaning
    with pytest.raises(UserError, match="001 is output 1 and also the folder of output 4"):
        ClassMap({"001": 4}).resolve([["001"]], 5)


def test_names_of_classes_carry_nothing_that_a_terminal_obeys():
    folders = ["\x1b]0;title\x07", "a\nb", os.fsdecode(b"\xff"), "right\u202eleft", "Käfer 甲虫 🐞 c\\d"]
    classes = ClassMap({folder: output for output, folder in enumerate(folders)})
    assert [classes.name(output) for output in range(5)] == [
        "\\x1b]0;title\\x07",
        "a\\nb",
        "\\udcff",
        "right\\u202eleft",
        "Käfer 甲虫 🐞 c\\d",
    ]
    assert classes.folder(1) == "a\nb"
    assert ClassMap({"n03196217": 0}).name(0) == "digital clock"
    evil = ["a\x1b[2J", "b"]
    for attempt in (
        lambda: map_folders(evil, 3),
        lambda: map_folders(evil, 1000),
        lambda: map_folders(evil, 3, class_map={"b": 0}),
        lambda: classes.resolve([["\x1b[2J"]], 9),
    ):
        with pytest.raises(UserError) as error:
            attempt()
        assert str(error.value).isprintable()
