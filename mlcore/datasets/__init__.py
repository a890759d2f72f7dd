from mlcore.datasets.glyphs import glyphs
