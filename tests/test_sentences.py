"""Sentences as vectors and as tasks: what is counted, what is lost, what is refused, and what the files must hold."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from mlcore import ProtoNet, datasets, evaluate, meta_train, seeded
from mlcore.datasets import TextFeatures, phrases
from mlcore.datasets.phrases import SPLITS
from mlcore.datasets.sentences import banking77, check_sentences, clinc150, few_of_each, fewrel
from mlcore.tasks import group_of

CORPUS = ["the card is late", "the card was lost", "a lost parcel", "the parcel is here", "pay the bill"]


def test_counts_are_tf_idf_by_hand():
    features = TextFeatures(CORPUS, buckets=2**16)
    having = {"the": 4, "card": 2, "lost": 2}  # sentences that have it
    (z,) = features(["card card lost"])
    raw = {word: np.log(6 / (1 + n)) + 1 for word, n in having.items()}
    by_hand = np.array([(1 + np.log(2)) * raw["card"], raw["lost"]])
    by_hand = sorted(by_hand / np.linalg.norm(by_hand))
    assert z.nonzero().numel() == 2
    assert sorted(z[z > 0].tolist()) == pytest.approx(by_hand, abs=1e-6)


def test_words_that_nobody_counted_have_a_place_but_no_static_vector():
    counted, static = (TextFeatures(CORPUS, buckets=2**16, static=size) for size in (None, 3))
    assert counted(["refund"]).norm().item() == pytest.approx(1)
    assert static(["refund"]).norm().item() < 1e-5
    assert static(CORPUS).norm(dim=1).tolist() == pytest.approx([1] * 5, abs=1e-5)


def test_static_vectors_lose_the_least():
    counts = TextFeatures(CORPUS, buckets=512)(CORPUS).double()
    z = TextFeatures(CORPUS, buckets=512, static=2)(CORPUS).double()
    best = torch.linalg.svd(counts, full_matrices=False)
    projected = nn.functional.normalize(counts @ best[2][:2].T, dim=1)
    torch.testing.assert_close(z @ z.T, projected @ projected.T, atol=1e-5, rtol=0)


def test_letters_see_what_words_do_not():
    pair = ["transferred", "transfer"]
    words, letters = (TextFeatures(CORPUS, of=of, buckets=2**16)(pair) for of in ("words", "letters"))
    assert (words[0] @ words[1]).item() == 0
    assert (letters[0] @ letters[1]).item() > 0.5


@pytest.mark.parametrize(
    ("texts", "error", "says"),
    [
        ("one string", TypeError, "texts is one string, 'one string'"),
        ([], ValueError, "there are no sentences"),
        (["fine", " \n"], ValueError, "sentence 1 is empty; leave it out, with its label"),
        (["fine", None], TypeError, "sentence 1 is None, not a string"),
        ([["a", "b"], "fine"], TypeError, r"sentence 0 is \['a', 'b'\], not a string"),
    ],
)
def test_what_is_no_sentence_is_refused_by_its_number(texts, error, says):
    with pytest.raises(error, match=says):
        check_sentences(texts)
    with pytest.raises(error, match=says):
        TextFeatures(CORPUS)(texts)


def test_wrong_choices_are_named():
    with pytest.raises(ValueError, match="nothing to count called 'syllables'"):
        TextFeatures(CORPUS, of="syllables")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no intents of 'snips'"):
        datasets.intents(of="snips")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no features 'bert'"):
        datasets.intents("bert", of="phrases")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="without an encoder"):
        datasets.intents("encoder", of="phrases")


# --- phrases --------------------------------------------------------------------------------------------------------


def test_phrases_are_240_intents_of_distinct_sentences():
    texts, names, vectors = phrases()
    assert set(Counter(names).values()) == {20} and len(set(names)) == 240 and vectors is None
    assert len(set(texts)) == len(texts) and phrases() == phrases()
    assert {group_of(name) for name in names} == {domain for part in SPLITS.values() for domain in part}


def test_what_domains_share_can_be_learned_from_them():
    train, _, test = datasets.load("intents", of="phrases", ways=5)
    assert not {group_of(name) for name in train.classes} & {group_of(name) for name in test.classes}
    torch.manual_seed(0)
    learner = ProtoNet(nn.Linear(2048, 32, bias=False), distance="cosine")
    meta_train(learner, train.replace(ways=20), iterations=40, meta_batch=1, outer_lr=1e-2, progress=False)
    counted, learned = (evaluate(one, test, episodes=60, progress=False) for one in (ProtoNet(nn.Identity()), learner))
    gain = learned.per_task - counted.per_task
    assert gain.mean() - 3 * gain.std() / 60**0.5 > 0.1
    assert counted.mean > 0.4, "chance is 0.2"


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_root(tmp_path):
    """A data root of the right form with four sentences in it."""
    (tmp_path / "text" / "clinc150").mkdir(parents=True)
    (tmp_path / "text" / "banking77").mkdir()
    (tmp_path / "text" / "minilm").mkdir()
    rows = {"train": [["book a flight", "fly"], ["where is it", "where"]]}
    (tmp_path / "text" / "clinc150" / "data_full.json").write_text(json.dumps(rows))
    (tmp_path / "text" / "clinc150" / "domains.json").write_text(json.dumps({"travel": ["fly", "where"]}))
    with open(tmp_path / "text" / "banking77" / "train.csv", "w", newline="") as file:
        csv.writer(file).writerows([["text", "category"], ["my card, please", "card"], ["refund", "refund"]])
    for name in ("clinc150", "banking77"):
        np.savez(tmp_path / "text" / "minilm" / f"{name}_minilm.npz", train=np.eye(2, 4, dtype=np.float16))
    return tmp_path


def test_files_are_read_as_they_stand(small_root):
    sentences = clinc150("train", root=small_root)
    assert sentences.texts == ["book a flight", "where is it"] and sentences.names == ["travel/fly", "travel/where"]
    assert sentences.vectors is not None and torch.equal(sentences.vectors, torch.eye(2, 4))
    assert banking77("train", root=small_root).texts == ["my card, please", "refund"]


def test_damaged_files_are_refused(small_root, tmp_path):
    np.savez(small_root / "text" / "minilm" / "clinc150_minilm.npz", train=np.eye(3, 4, dtype=np.float16))
    with pytest.raises(ValueError, match="holds 3 vectors for 2 sentences of 'train'"):
        clinc150("train", root=small_root)
    with open(small_root / "text" / "banking77" / "train.csv", "a") as file:
        file.write("a comma, too many, here\n")
    with pytest.raises(ValueError, match="row 3, has not as many fields as the header"):
        banking77("train", root=small_root)
    with open(small_root / "text" / "banking77" / "train.csv", "w") as file:
        file.write("text,category\nlonely\n")
    with pytest.raises(ValueError, match="row 1, has not as many fields"):
        banking77("train", root=small_root)
    with pytest.raises(ValueError, match="no part of CLINC150 called 'exam'"):
        clinc150("exam", root=small_root)


@pytest.mark.parametrize("read", [clinc150, banking77, fewrel, datasets.intents, datasets.relations])
def test_without_data_the_message_says_where_it_looked(read, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no sentences in .*(text|fewrel): set \$MLCORE_DATA"):
        read(root=tmp_path)


@pytest.mark.usefixtures("needs_intents")
def test_intents_are_the_published_split():
    train, val, test = datasets.load("intents", features="encoder")
    assert [len(part.classes) for part in (train, val, test)] == [90, 30, 77]
    assert [len(part) for part in (train, val, test)] == [13_500, 4_500, 13_083]
    z = test.examples(test.codes()[:100])
    assert z.shape == (100, 384) and z.norm(dim=1).tolist() == pytest.approx([1] * 100, abs=1e-3)
    assert evaluate(ProtoNet(nn.Identity()), test, episodes=50, progress=False).mean > 0.85, "chance is 0.2"


@pytest.mark.usefixtures("needs_intents")
def test_the_usual_few_are_found_among_the_training_sentences():
    few = few_of_each("banking77", 5)
    assert set(Counter(few.names).values()) == {5} and len(set(few.names)) == 77
    with pytest.raises(FileNotFoundError, match="there are files of 5 and of 10 shots"):
        few_of_each("banking77", 7)


@pytest.mark.usefixtures("needs_relations")
def test_relations_hide_the_entities():
    train, val, test = datasets.load("relations", on="pubmed")
    assert val is None and len(train.classes) == 8 and len(test.classes) == 10
    assert not set(train.classes) & set(datasets.load("relations")[2].classes)
    for text in fewrel("pubmed").texts[:200]:
        assert text.count("headentity") == text.count("tailentity") == 1
    assert test.sample(1, seeded(0)).support.x.shape == (1, 5, 2048)
