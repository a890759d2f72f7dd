"""Figures that move."""

import base64
import io
import re

import matplotlib.pyplot as plt
from PIL import Image

from mlcore.plots import player


def test_a_player_needs_nothing_from_elsewhere_and_shows_every_frame():
    figure, ax = plt.subplots(figsize=(3, 2), dpi=50)
    (line,) = ax.plot([0, 1], [0, 1])
    page = player(figure, lambda slope: line.set_ydata([0, slope]), (0.1, 0.5, 1.0), alt='A "line" that rises')
    assert not plt.fignum_exists(figure.number)
    assert "http" not in page and "<link" not in page and "fa-" not in page
    assert 'alt="A &quot;line&quot; that rises"' in page
    frames = re.findall(r'frames\[\d\] = "data:image/png;base64,([^"]*)"', page)
    pictures = [Image.open(io.BytesIO(base64.b64decode(frame))).convert("RGB") for frame in frames]
    assert [picture.size for picture in pictures] == [(150, 100)] * 3
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert f'src="data:image/png;base64,{frames[-1]}"' in page
