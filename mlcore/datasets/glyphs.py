"""Warped print glyphs: the data set that needs no download.

Omniglot asks a learner to tell apart characters of alphabets it has never seen. So does this, with the letters of the
DejaVu fonts that come with matplotlib: a class is a letter, an alphabet is a script, and a "drawing" is the letter in
one of the fonts' faces, bent by a random affine map and a smooth random displacement (Simard et al., 2003).
"""

import math
import unicodedata
from pathlib import Path

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from PIL import Image, ImageFont
from torch import Tensor

from mlcore.datasets.cache import cached_images
from mlcore.tasks import ClassificationTasks, seeded

SCRIPTS = {
    "train": ("Latin", "Greek", "Cyrillic", "Canadian Syllabics", "Old Italic"),
    "val": ("Arabic", "Lao"),
    "test": ("Armenian", "Georgian", "Hebrew"),
}
"""Which scripts are in which split. No script is in two, so the test is on alphabets never seen.

Left out are Coptic and Lisu, of which too little remains once letters that look like others are gone (Lisu is made of
turned Latin capitals), and mathematical letters, which are Latin and Greek again.
"""

DRAWINGS = 20
"""Drawings of each letter, as in Omniglot."""

_RECIPE = "glyphs-2"  # change it with anything below, or caches made by the old code will be read
_PRINT, _BOX, _SIZE = 56, 40, 28  # pixels: a print, the letter in it, and the image made from it
_LOOKALIKE = 0.96
_BATCH = 1000


def glyphs(
    *, ways: int = 5, shots: int = 1, queries: int = 15, rotations: bool = False
) -> tuple[ClassificationTasks, ClassificationTasks, ClassificationTasks]:
    """Warped print glyphs as (train, val, test) episodes over disjoint scripts; see :data:`SCRIPTS`.

    Images are uint8 [1, 28, 28] with ink = 255, 20 of each letter; classes are named "Greek/small alpha". They are
    made on the first call, in seconds, and kept in the user's cache folder. The sizes are those of
    :class:`~mlcore.tasks.ClassificationTasks`.
    """
    import matplotlib

    # Names hold what the images depend on, apart from this file.
    name = f"{_RECIPE}-matplotlib-{matplotlib.__version__}-pillow-{PIL.__version__}"
    images, classes = cached_images(name, _build)
    tasks = ClassificationTasks(
        images.reshape(-1, *images.shape[2:]),
        np.repeat(classes, images.shape[1]),
        ways=ways,
        shots=shots,
        queries=queries,
        rotations=rotations,
    )
    train, val, test = (
        tasks.select_classes(c for c in classes if c.split("/")[0] in scripts) for scripts in SCRIPTS.values()
    )
    return train, val, test


def _build() -> tuple[np.ndarray, list[str]]:
    """Images uint8 [letters, 20, 1, 28, 28], and the letters' names."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    # The two Display faces hold a few symbols only.
    files = sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVu*.ttf"))
    files = [file for file in files if "Display" not in file.stem]
    # Pillow's basic layout is the one it has on every system.
    fonts = {file.stem: ImageFont.truetype(str(file), 64, layout_engine=ImageFont.Layout.BASIC) for file in files}
    charmaps = {file.stem: set(FT2Font(str(file)).get_charmap()) for file in files}
    prints = {}
    for code in sorted(set().union(*charmaps.values())):
        having = [face for face, charmap in charmaps.items() if code in charmap]
        if len(having) >= 4 and _class_name(chr(code)):
            prints[chr(code)] = {face: _print(fonts[face], chr(code)) for face in having}
    letters = _without_lookalikes(prints)
    faces = [list(prints[letter].values()) for letter in letters]
    pages = torch.from_numpy(np.stack([pages[d % len(pages)] for pages in faces for d in range(DRAWINGS)]))
    generator = seeded(0)
    images = torch.cat([_warp(batch, generator) for batch in pages.split(_BATCH)])
    return images.view(-1, DRAWINGS, 1, _SIZE, _SIZE).numpy(), [str(_class_name(letter)) for letter in letters]


def _class_name(character: str) -> str | None:
    """A letter's name, such as "Greek/small alpha"; None for what is not a letter of the scripts above."""
    # A decomposition marks another letter with an accent, or in another form or style, which 28 pixels do not tell.
    if not unicodedata.category(character).startswith("L") or unicodedata.decomposition(character):
        return None
    for script in sum(SCRIPTS.values(), ()):
        name = unicodedata.name(character)
        if name.startswith(f"{script.upper()} "):
            return f"{script}/{name[len(script) + 1 :].replace('LETTER ', '').lower()}"
    return None


def _print(font: ImageFont.FreeTypeFont, letter: str) -> np.ndarray:
    """The letter in print, uint8 [56, 56], scaled so that its longer side is 40 pixels and centred."""
    mask = font.getmask(letter, mode="L")
    ink = Image.frombytes("L", mask.size, bytes(mask))  # pyright: ignore[reportArgumentType]  # a buffer all the same
    ink = ink.crop(ink.getbbox())
    scale = _BOX / max(ink.size)
    ink = ink.resize([max(1, round(side * scale)) for side in ink.size], Image.Resampling.LANCZOS)
    page = Image.new("L", (_PRINT, _PRINT))
    page.paste(ink, ((_PRINT - ink.width) // 2, (_PRINT - ink.height) // 2))
    return np.asarray(page)


def _without_lookalikes(prints: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """The letters whose print, turned by any multiple of 90 degrees, is not that of an earlier letter they keep.

    Latin A, Greek Alpha and Cyrillic A are one drawing under three labels: noise for training, and a leak from the
    training scripts to the others. Turned prints count, because ``rotations=True`` makes d and p the same class.
    """
    alike = torch.zeros(len(prints), len(prints))
    blank = np.zeros((_PRINT, _PRINT), np.uint8)
    for face in ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif"):  # upright, so that turned prints compare
        pages = torch.from_numpy(np.stack([of_letter.get(face, blank) for of_letter in prints.values()]))
        soft = F.avg_pool2d(F.avg_pool2d(pages[:, None].float(), 2), 3, stride=1, padding=1)
        unit = F.normalize(soft.flatten(1))
        for k in range(4):
            cosine = unit @ F.normalize(soft.rot90(k, (-2, -1)).flatten(1)).T
            alike = torch.maximum(alike, cosine)
    kept: list[int] = []
    for i in range(len(prints)):
        if not (alike[i, kept] > _LOOKALIKE).any():
            kept.append(i)
    return [list(prints)[i] for i in kept]


def _warp(prints: Tensor, generator: torch.Generator) -> Tensor:
    """Each print uint8 [n, 56, 56] as if drawn by another hand, uint8 [n, 1, 28, 28]."""
    n = len(prints)

    def uniform(bound: float) -> Tensor:
        return bound * (2 * torch.rand(n, generator=generator) - 1)

    angle, shear = uniform(math.pi / 9), uniform(0.3)
    width, height = uniform(0.25).exp(), uniform(0.25).exp()
    cos, sin = angle.cos(), angle.sin()
    # Rotation after shear and scale, then a shift; 1 is half the page.
    rows = [
        width * cos,
        shear * cos - height * sin,
        uniform(0.12),
        width * sin,
        shear * sin + height * cos,
        uniform(0.12),
    ]
    affine = torch.stack(rows, dim=1).view(n, 2, 3)
    grid = F.affine_grid(affine, [n, 1, _PRINT, _PRINT], align_corners=False)
    # Smooth displacements: noise at 5 x 5 points, interpolated between them.
    bends = 0.07 * torch.randn(n, 2, 5, 5, generator=generator)
    bends = F.interpolate(bends, size=(_PRINT, _PRINT), mode="bicubic", align_corners=True)
    warped = F.grid_sample(prints[:, None].float(), grid + bends.permute(0, 2, 3, 1), align_corners=False)
    return F.avg_pool2d(warped, 2).round().to(torch.uint8)
