"""Suggestions in messages of errors."""

from utils.errors import nearest, nearest_hint


def test_the_most_similar_names_come_first_by_their_best_part_and_then_as_a_whole():
    names = {"a": ("layer1.conv", "conv"), "b": ("conv", "conv"), "c": ("cone",), "d": ("fc",)}
    assert nearest("conv", names) == ["b", "a", "c"]
    assert nearest("conv", names, most=1) == ["b"]
    assert nearest("conv", names, similarity=0.8) == ["b", "a"]
    assert nearest("qq", names) == [] and len(nearest("qq", names, similarity=0)) == 3


def test_names_in_a_hint_are_printable():
    assert nearest_hint("a\x1bb", {"a\x1bc": ("a\x1bc",)}, most=1) == ""
    assert nearest_hint("ab\x1bc", {"ab\x1bd": ("ab\x1bd",)}) == "; similar: ab\\x1bd"
    assert nearest_hint("x" * 5000, {"x": ("x",)}) == ""
