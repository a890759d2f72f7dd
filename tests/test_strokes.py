"""Characters drawn from strokes: the same ones however many there are, distinct, in ink, and refused where none."""

from importlib import import_module

import numpy as np
import pytest
import torch

from mlcore import evaluate
from mlcore.datasets import invented, kanji, load
from mlcore.datasets.strokes import read_kanji
from mlcore.learners import NearestNeighbour

strokes = import_module("mlcore.datasets.strokes")


def images(tasks):
    """uint8 [classes, drawings, 28, 28]."""
    codes = tasks.codes()
    return tasks.x[codes // 4].view(len(tasks.classes), -1, 28, 28)


def test_more_characters_hold_the_fewer():
    few, many = invented(characters=10, drawings=4, queries=2), invented(characters=30, drawings=4, queries=2)
    assert torch.equal(images(few[0]), images(many[0])[:10])
    assert torch.equal(images(few[2]), images(many[2]))  # the exam is the same


def test_splits_share_no_character():
    parts = invented(characters=200, drawings=4, queries=2)
    names = [set(part.classes) for part in parts]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    drawn = torch.cat([images(part).flatten(0, 1).flatten(1) for part in parts])
    assert len(drawn.unique(dim=0)) == len(drawn)


def test_drawings_are_ink_on_paper_within_the_page():
    drawn = images(invented(characters=50, drawings=10, queries=5)[0]).float() / 255
    ink = drawn.mean((-2, -1))
    assert 0.01 < ink.min() and ink.max() < 0.6
    assert (drawn.amax((-2, -1)) > 0.5).all()


def test_pixels_tell_characters_apart_hardly_better_than_chance():
    exam = invented(characters=10, drawings=6, queries=5)[2].replace(ways=20)
    score = evaluate(NearestNeighbour(), exam, episodes=100, progress=False)
    assert 0.07 < score.mean < 0.2  # chance is 0.05


def test_a_steady_hand_draws_the_character_itself():
    rng = np.random.default_rng(0)
    character = strokes.invent(rng)
    for drawn, stroke in zip(strokes.by_hand(character, rng, 0.0), character, strict=True):
        np.testing.assert_allclose(drawn, stroke, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"characters": 0}, "characters must be a positive whole number, not 0"),
        ({"drawings": 2.5}, "drawings must be a positive whole number, not 2.5"),
        ({"characters": 10, "drawings": 5}, "lower shots or queries"),
    ],
)
def test_numbers_that_are_none_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        invented(**settings)


def test_without_the_file_the_message_says_what_needs_none(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCORE_DATA", str(tmp_path))
    read_kanji.cache_clear()
    with pytest.raises(FileNotFoundError, match="'invented' needs no files"):
        kanji()


def test_a_damaged_file_is_refused(tmp_path):
    folder = tmp_path / "kanji_strokes"
    folder.mkdir()
    (folder / "kanji_strokes.npz").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_kanji(tmp_path)


@pytest.mark.usefixtures("needs_kanji")
def test_kanji_are_distinct_and_the_fewer_are_among_the_more():
    read = read_kanji()
    assert len(read) == 11_335
    assert all(len(stroke) > 0 for character in read for stroke in character)
    few, _, exam = load("kanji", characters=20, drawings=3, shots=1, queries=2)
    many = load("kanji", characters=40, drawings=3, shots=1, queries=2)[0]
    assert torch.equal(images(few), images(many.select_classes(few.classes)))
    assert not set(exam.classes) & set(many.classes)
    with pytest.raises(ValueError, match=r"characters=20000, but 10,635 kanji are left"):
        kanji(characters=20_000)
