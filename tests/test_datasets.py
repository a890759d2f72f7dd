"""Data sets: built the same every time, split as promised, and suspicious of what they read."""

import io
import zipfile
from importlib import import_module
from inspect import isfunction, ismodule
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlcore import datasets, seeded
from mlcore.datasets import cache
from mlcore.files import data_root

glyphs_module = import_module("mlcore.datasets.glyphs")
omniglot_module = import_module("mlcore.datasets.omniglot")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setattr(cache, "cache_root", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def images_of(tasks):
    return tasks.x[torch.cat([row[:count] for row, count in zip(tasks._rows, tasks._counts, strict=True)])]


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
        assert torch.equal(a.sample(3, seeded(0)).query_x, b.sample(3, seeded(0)).query_x)


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


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="no data set 'mnist'; choose one of glyphs, omniglot"):
        datasets.load("mnist")
    with pytest.raises(ValueError, match="no split 'vinyal'; choose one of vinyals, lake, random"):
        datasets.omniglot("vinyal")
    with pytest.raises(TypeError, match="way"):
        datasets.load("glyphs", way=3)


def test_a_download_is_checked_and_moved(tmp_path, monkeypatch):
    asked = []

    def fetch(url, root, filename, md5):
        asked.append((url, md5))
        Path(root, filename).write_bytes(b"zip")

    monkeypatch.setattr(omniglot_module, "download_url", fetch)
    datasets.download_omniglot(tmp_path)
    assert sorted(file.name for file in (tmp_path / "omniglot").iterdir()) == [
        "images_background.zip",
        "images_evaluation.zip",
    ]
    assert all(url.startswith("https://") and len(md5) == 32 for url, md5 in asked)

    def broken(url, root, filename, md5):
        Path(root, filename).write_bytes(b"zi")
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(omniglot_module, "download_url", broken)
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
    distances = torch.cdist(batch.query_x.flatten(2), batch.support_x.flatten(2))
    nearest = torch.gather(batch.support_y, 1, distances.argmin(-1))
    assert (nearest == batch.query_y).double().mean() > 0.35
