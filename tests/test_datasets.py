"""Data sets: built the same every time, split as promised, and suspicious of what they read."""

import io
import json
import zipfile
from collections import Counter
from importlib import import_module
from inspect import isfunction, ismodule
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlcore import FixedTasks, datasets, seeded
from mlcore.datasets import cache
from mlcore.datasets.omniglot import split_names
from mlcore.files import data_root

cifar_module = import_module("mlcore.datasets.cifar")
glyphs_module = import_module("mlcore.datasets.glyphs")
omniglot_module = import_module("mlcore.datasets.omniglot")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setattr(cache, "cache_root", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def images_of(tasks):
    return tasks.x[tasks.codes() // 4]


def test_a_name_is_the_function_and_its_module_is_still_found():
    for name in ("glyphs", "omniglot", "sinusoid"):
        assert isfunction(getattr(datasets, name))
        assert ismodule(import_module(f"mlcore.datasets.{name}"))


# --- glyphs ---------------------------------------------------------------------------------------------------------


def test_glyphs_hold_out_scripts_and_have_twenty_drawings():
    parts = datasets.glyphs(ways=20, shots=1, queries=5)
    scripts = [{name.split("/")[0] for name in part.classes} for part in parts]
    assert all(found <= set(named) for found, named in zip(scripts, glyphs_module.SCRIPTS.values(), strict=True))
    assert not (scripts[0] & scripts[1] or scripts[0] & scripts[2] or scripts[1] & scripts[2])
    for part in parts:
        assert len(part) == 20 * len(part.classes)
        assert part.x.shape[1:] == (1, 28, 28) and part.x.dtype == torch.uint8


def test_glyphs_are_distinct_drawings_in_ink():
    images = torch.cat([images_of(part) for part in datasets.glyphs()])
    assert len(torch.unique(images.flatten(1), dim=0)) == len(images)
    ink = images.flatten(1).float().mean(1) / 255
    assert 0.01 < ink.min() and ink.max() < 0.6, "ink on paper, never a blank page or a black one"


@pytest.mark.slow
def test_glyphs_are_built_the_same_twice():
    images, classes = glyphs_module._build()
    for part in datasets.glyphs():  # most often from the user's cache, which also must not be stale
        built = images[np.isin(classes, part.classes)].reshape(-1, 1, 28, 28)
        assert torch.equal(images_of(part), torch.from_numpy(built))


def test_a_damaged_cache_is_mended(own_cache):
    images = np.arange(2 * 3 * 784, dtype=np.uint8).reshape(2, 3, 1, 28, 28)
    cache.cached_images("any", lambda: (images, ["a", "b"]))
    file = own_cache / "any.npz"
    whole = file.read_bytes()
    for damaged in (b"", whole[:1000], whole[:2000] + b"!" + whole[2001:]):
        file.write_bytes(damaged)
        built = []
        cache.cached_images("any", lambda built=built: (built.append(1), (images, ["a", "b"]))[1])
        assert built, "damaged, so built again"
        again, classes = cache.cached_images("any", lambda: pytest.fail("the mended cache was not kept"))
        assert np.array_equal(again, images) and classes == ["a", "b"]


def test_images_are_there_when_no_cache_can_be(own_cache):
    own_cache.write_text("a file where the folder should be")
    images = np.zeros((2, 1, 1, 28, 28), np.uint8)
    with pytest.warns(UserWarning, match="cannot keep .* built again next time"):
        built, classes = cache.cached_images("any", lambda: (images, ["a", "b"]))
    assert built is images and classes == ["a", "b"]


@pytest.mark.filterwarnings("error")
def test_a_cache_that_runs_code_is_not_read(own_cache):
    own_cache.mkdir()
    np.savez(own_cache / "any.npz", images=np.array([print], dtype=object), classes=np.array(["x"]))  # a pickle
    images = np.ones((1, 1, 1, 28, 28), np.uint8)
    assert cache.cached_images("any", lambda: (images, ["a"]))[0] is images
    again, classes = cache.cached_images("any", lambda: pytest.fail("the good cache was not kept"))
    assert np.array_equal(again, images) and classes == ["a"]


def test_homoglyphs_are_one_class():
    train = datasets.glyphs()[0].classes
    assert "Latin/capital a" in train
    assert "Greek/capital alpha" not in train and "Cyrillic/capital a" not in train


# --- omniglot, on a small imitation ---------------------------------------------------------------------------------


def drawing(seed):
    bits = np.random.default_rng(seed).random((105, 105)) < 0.9
    stream = io.BytesIO()
    Image.fromarray(bits).save(stream, "PNG")
    return stream.getvalue()


def imitation(folder: Path, *, background=30, evaluation=12) -> Path:
    """Zips in Omniglot's layout with few characters; returns the data root."""
    folder.mkdir(parents=True)
    start = 0
    for name, count in (("images_background", background), ("images_evaluation", evaluation)):
        # Deflated, like the real ones: damage then shows in the decompressor too, not in the checksum alone.
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for c in range(start, start + count):
                alphabet = "Hebrew" if name == "images_background" and c < 6 else f"{name[7:].title()}{c // 10}"
                for d in range(20):
                    archive.writestr(f"{name}/{alphabet}/character{c:02d}/{c:04d}_{d + 1:02d}.png", drawing(20 * c + d))
        start += count
    return folder.parent


@pytest.fixture
def small(tmp_path, monkeypatch, own_cache):
    """The imitation's data root, with its counts expected."""
    monkeypatch.setattr(omniglot_module, "_CHARACTERS", {"images_background": 30, "images_evaluation": 12})
    return imitation(tmp_path / "root" / "omniglot")


def test_omniglot_reads_zips_and_folders_alike(small, tmp_path):
    from_zips = datasets.omniglot("lake", root=small, queries=2)
    assert [len(part.classes) for part in from_zips] == [24, 6, 12]
    assert {name.split("/")[0] for name in from_zips[1].classes} == {"Hebrew"}
    folders = tmp_path / "unpacked" / "omniglot-py"
    for file in (small / "omniglot").glob("*.zip"):
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folders)
    from_folders = datasets.omniglot("lake", root=tmp_path / "unpacked", queries=2)
    for a, b in zip(from_zips, from_folders, strict=True):
        assert torch.equal(a.sample(3, seeded(0)).query.x, b.sample(3, seeded(0)).query.x)


def test_omniglot_is_ink_on_paper_and_cached(small, own_cache, monkeypatch):
    train, _, _ = datasets.omniglot("lake", root=small, queries=2)
    assert 0.05 < images_of(train).float().mean() / 255 < 0.2  # a tenth of each imitation is ink
    monkeypatch.setattr(omniglot_module, "_decode", lambda sources: pytest.fail("decoded again"))
    again, _, _ = datasets.omniglot("lake", root=small, queries=2)
    assert torch.equal(images_of(train), images_of(again))


def test_a_truncated_zip_is_named(small):
    file = small / "omniglot" / "images_evaluation.zip"
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(ValueError, match=r"images_evaluation\.zip is truncated or damaged .* get it again"):
        datasets.omniglot(root=small)


@pytest.mark.parametrize("byte", [0, 5])  # the first is found by the decompressor, the second by the checksum
def test_a_tampered_zip_is_named(small, byte):
    file = small / "omniglot" / "images_background.zip"
    data = bytearray(file.read_bytes())
    first = b"character00/0000_01.png"
    data[data.index(first) + len(first) + byte] ^= 0xFF  # in the first picture
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"images_background\.zip is .* damaged .*(decompressing|CRC).* get it again"):
        datasets.omniglot(root=small)


def test_what_else_a_zip_holds_is_passed_over(small):
    with zipfile.ZipFile(small / "omniglot" / "images_background.zip", "a") as archive:
        archive.writestr("images_background/Hebrew/character00/", "")
        archive.writestr("__MACOSX/images_background/Hebrew/character00/._0000_01.png", b"not a picture")
        archive.writestr("overview.png", drawing(0))
    assert [len(part.classes) for part in datasets.omniglot("lake", root=str(small), queries=2)] == [24, 6, 12]


def test_a_folder_is_read_again_when_a_drawing_in_it_changes(small, tmp_path):
    folder = tmp_path / "unpacked" / "omniglot"
    for file in (small / "omniglot").glob("*.zip"):
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
    picture = folder / "images_background" / "Background1" / "character10" / "0010_01.png"
    before, _, _ = datasets.omniglot("lake", root=tmp_path / "unpacked", queries=2)
    picture.write_bytes(drawing(99_999))
    after, _, _ = datasets.omniglot("lake", root=tmp_path / "unpacked", queries=2)
    assert (images_of(before) != images_of(after)).flatten(1).any(1).sum() == 1
    picture.write_bytes(drawing(99_999)[:200])
    with pytest.raises(ValueError, match=r"0010_01\.png is truncated or damaged .* delete images_background and"):
        datasets.omniglot("lake", root=tmp_path / "unpacked")


@pytest.mark.parametrize("entry", ["../evil.png", "/etc/evil.png", "C:/evil.png", "a/../../evil.png", "..\\evil.png"])
def test_an_entry_that_would_leave_its_folder_is_refused(small, entry):
    with zipfile.ZipFile(small / "omniglot" / "images_evaluation.zip", "a") as archive:
        archive.writestr(zipfile.ZipInfo(entry), b"")
    with pytest.raises(ValueError, match="would leave its folder"):
        datasets.omniglot(root=small)


def test_missing_characters_and_drawings_are_counted(small, monkeypatch):
    monkeypatch.setattr(omniglot_module, "_CHARACTERS", {"images_background": 31, "images_evaluation": 12})
    with pytest.raises(ValueError, match="holds 30 characters, not 31"):
        datasets.omniglot(root=small)
    monkeypatch.setattr(omniglot_module, "_CHARACTERS", {"images_background": 30, "images_evaluation": 12})
    with zipfile.ZipFile(small / "omniglot" / "images_background.zip", "a") as archive:
        archive.writestr("images_background/Hebrew/character00/0000_21.png", drawing(0))
    with pytest.raises(ValueError, match="Hebrew/character00 has 21 drawings, not 20"):
        datasets.omniglot(root=small)


def test_no_data_says_where_it_looked_and_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no Omniglot in .*MLCORE_DATA.*mlcore data --download .*glyphs"):
        datasets.omniglot(root=tmp_path)


def test_fewer_classes_are_among_more():
    train, _, _ = datasets.glyphs(ways=4)
    few, more = (datasets.fewer_classes(train, number).classes for number in (10, 200))
    assert len(set(few)) == 10 and set(few) < set(more) < set(train.classes)
    assert datasets.fewer_classes(train, 10, seed=1).classes != few
    assert set(datasets.fewer_classes(train, len(train.classes)).classes) == set(train.classes)
    for number in (3, len(train.classes) + 1):
        with pytest.raises(ValueError, match=f"number={number} must be between ways=4 and the .* classes there are"):
            datasets.fewer_classes(train, number)


def test_whole_groups_come_one_after_another():
    train, _, _ = datasets.glyphs(ways=4)
    sizes = Counter(name.split("/")[0] for name in train.classes)
    for number in (4, 150, 400):
        taken = Counter(name.split("/")[0] for name in datasets.fewer_classes(train, number, whole_groups=True).classes)
        assert sum(taken.values()) == number
        assert sum(count < sizes[script] for script, count in taken.items()) <= 1


def test_groups_choose_training_and_test_classes():
    train, val, test = datasets.load("glyphs", train_groups=("Greek", "Latin"), test_groups=("Hebrew",))
    plain = datasets.glyphs()
    assert {name.split("/")[0] for name in train.classes} == {"Greek", "Latin"}
    assert test.classes == [name for name in plain[2].classes if name.startswith("Hebrew/")]
    assert val.classes == plain[1].classes
    with pytest.raises(ValueError, match="no group 'Hebrew' here; choose among Canadian Syllabics, Cyrillic, Greek"):
        datasets.load("glyphs", train_groups=("Hebrew",))


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match=r"no data set 'mnist'; choose one of sinusoid, .*omniglot, "):
        datasets.load("mnist")
    with pytest.raises(ValueError, match="no data set 'omniglots'; did you mean omniglot"):
        datasets.load("omniglots")
    with pytest.raises(ValueError, match="of='sinusoid' is no data set of images; choose one of invented, glyphs"):
        datasets.canvases(of="sinusoid")
    with pytest.raises(ValueError, match="no split 'vinyal'; choose one of vinyals, vinyals-trainval, lake, random"):
        datasets.omniglot("vinyal")
    with pytest.raises(TypeError, match="way"):
        datasets.load("glyphs", way=3)


def test_a_download_is_checked_and_moved(tmp_path, monkeypatch):
    asked = []

    def fetch(url, root, filename, md5):
        asked.append((url, md5))
        Path(root, filename).write_bytes(b"zip")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    datasets.download_omniglot(tmp_path)
    assert sorted(file.name for file in (tmp_path / "omniglot").iterdir()) == [
        "images_background.zip",
        "images_evaluation.zip",
    ]
    assert all(url.startswith("https://") and len(md5) == 32 for url, md5 in asked)

    def broken(url, root, filename, md5):
        Path(root, filename).write_bytes(b"zi")
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", broken)
    with pytest.raises(OSError, match=r"images_background\.zip cannot be fetched .*corrupted.* try again"):
        datasets.download_omniglot(tmp_path)
    assert (tmp_path / "omniglot" / "images_background.zip").read_bytes() == b"zip", "the old file is kept"
    assert len(list((tmp_path / "omniglot").iterdir())) == 2, "and no debris left"


# --- omniglot, the real one -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("needs_omniglot")
@pytest.mark.parametrize(
    ("split", "sizes"), [("vinyals", [1028, 172, 423]), ("lake", [792, 172, 659]), ("random", [1100, 100, 423])]
)
def test_splits_have_their_published_sizes_and_do_not_overlap(split, sizes):
    parts = datasets.omniglot(split)
    assert [len(part.classes) for part in parts] == sizes
    names = [name for part in parts for name in part.classes]
    assert len(set(names)) == len(names)


@pytest.mark.usefixtures("needs_omniglot")
def test_training_may_have_the_validation_characters_too():
    apart, together = (datasets.omniglot(split) for split in ("vinyals", "vinyals-trainval"))
    assert set(together[0].classes) == set(apart[0].classes) | set(apart[1].classes)
    assert [part.classes for part in together[1:]] == [part.classes for part in apart[1:]]


def test_the_split_of_imamls_commands_tests_on_characters_it_trained_on():
    names = [f"Alphabet/{i:04}" for i in range(1623)]
    (train, val, test), (same, _, unseen) = (split_names(names, split) for split in ("imaml", "imaml-unseen"))
    assert (len(train), len(test), len(set(train) & set(test))) == (1200, 423, 310)
    assert same == train and set(unseen) == set(test) - set(train) and set(val) < set(train)


@pytest.mark.usefixtures("needs_omniglot")
def test_the_vinyals_rule_gives_the_published_lists():
    folder = data_root() / "omniglot" / "splits" / "vinyals"
    if not folder.is_dir():
        pytest.skip("the published lists are not in the data root")
    for part, name in zip(datasets.omniglot("vinyals"), ("train", "val", "test"), strict=True):
        published = {line.rsplit("/", 1)[0] for line in (folder / f"{name}.txt").read_text().split()}
        assert set(part.classes) == published


@pytest.mark.usefixtures("needs_omniglot")
def test_within_a_character_drawings_are_more_alike_than_across():
    """Nearest neighbour on pixels beats chance by a wide margin: labels and images belong together."""
    batch = datasets.omniglot("lake")[2].sample(200, seeded(0))
    distances = torch.cdist(batch.query.x.flatten(2), batch.support.x.flatten(2))
    nearest = torch.gather(batch.support.y.argmax(-1), 1, distances.argmin(-1))
    assert (nearest == batch.query.y.argmax(-1)).double().mean() > 0.35


@pytest.mark.usefixtures("needs_omniglot")
def test_the_challenge_asks_each_character_once_and_is_drawn_anew():
    tasks = datasets.omniglot_challenge()
    assert isinstance(tasks, FixedTasks) and tasks.size == 20
    assert (tasks.objective.main, tasks.objective.metrics["error"].higher_is_better) == ("error", False)
    support, query = tasks.task
    assert support.x.shape == query.x.shape == (20, 20, 1, 28, 28)
    assert torch.equal(query.y.argmax(-1).sort().values, torch.arange(20).expand(20, -1))
    assert query.x.amax((2, 3, 4)).min() > 0.5 and query.x.mean() < 0.3  # ink on paper
    support, query = datasets.omniglot_challenge(size=105).task
    assert set(support.x.unique().tolist()) == {0.0, 1.0}
    assert not any(torch.equal(a, b) for a, b in zip(support.x[0], query.x[0], strict=True))


@pytest.mark.usefixtures("needs_omniglot")
def test_background_sets_share_nothing_with_the_challenge():
    evaluation = {name.split("/")[0] for name in datasets.omniglot("lake")[2].classes}
    sizes = {}
    for name in ("all", "small1", "small2"):
        background = datasets.omniglot_background(name, ways=14)
        alphabets = {name.split("/")[0] for name in background.classes}
        sizes[name] = (len(alphabets), len(background.classes))
        assert not alphabets & evaluation and background.within_groups
    assert sizes == {"all": (30, 964), "small1": (5, 136), "small2": (5, 156)}


def test_the_challenge_says_what_it_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*all_runs\.zip: set \$MLCORE_DATA"):
        datasets.omniglot_challenge(root=tmp_path)
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "all_runs.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"all_runs\.zip is truncated or damaged"):
        datasets.omniglot_challenge(root=tmp_path)
    with pytest.raises(ValueError, match="there is no background set 'tiny'; choose one of all, small1, small2"):
        datasets.omniglot_background("tiny", root=tmp_path)


# --- cifar ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("needs_cifar")
@pytest.mark.parametrize(("split", "sizes"), [("cifar_fs", [64, 16, 20]), ("fc100", [60, 20, 20])])
def test_cifar_splits_have_their_published_sizes(split, sizes):
    parts = datasets.cifar(split)
    assert [len(part.classes) for part in parts] == sizes
    assert [len(part) for part in parts] == [600 * size for size in sizes]
    assert len({name for part in parts for name in part.classes}) == 100
    coarse = [{name.split("/")[0] for name in part.classes} for part in parts]
    disjoint = not (coarse[0] & coarse[1] or coarse[0] & coarse[2] or coarse[1] & coarse[2])
    assert disjoint == (split == "fc100")


@pytest.mark.usefixtures("needs_cifar")
def test_cifar_has_the_published_mean_of_its_training_images():
    train, val, test = datasets.cifar()
    of_original_training_set = torch.cat([part.codes().view(-1, 600)[:, :500].flatten() for part in (train, val, test)])
    mean = train.x[of_original_training_set // 4].double().mean((0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.50707516, 0.48654887, 0.44091784]).double(), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("needs_cifar")
def test_only_training_images_of_cifar_are_augmented():
    train, val, test = datasets.cifar(augment=True)
    assert train.augment is cifar_module.crop_and_flip and val.augment is test.augment is None
    image = train.x[0].float()
    variants = torch.stack([train.augment(image) for _ in range(30)])
    assert variants.shape == (30, 3, 32, 32) and len(variants.flatten(1).unique(dim=0)) > 20


def test_cifar_says_what_it_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no CIFAR-FS in .*: set \$MLCORE_DATA"):
        datasets.cifar(root=tmp_path)
    with pytest.raises(ValueError, match="there is no split 'miniimagenet'; choose 'cifar_fs' or 'fc100'"):
        datasets.cifar("miniimagenet", root=tmp_path)


@pytest.mark.usefixtures("own_cache")
def test_a_damaged_sheet_is_named(tmp_path):
    folder = tmp_path / "cifar_fs"
    folder.mkdir()
    meta = {"fine_labels": ["apple"], "coarse_labels": ["fruit"], "coarse_of_fine": [0]}
    (folder / "meta.json").write_text(json.dumps(meta))
    for name in ("train", "val", "test"):
        (folder / f"cifar100_{name}.zip").write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"cifar100_train\.zip is truncated or damaged .* get it again"):
        datasets.cifar(root=tmp_path)
