"""Docstrings write shapes as [n, *input]; reStructuredText reads that star as emphasis. Render shapes as literals."""

import re

SHAPE = re.compile(r"(?<![`\w])\[[^][`]*\*\w+[^][`]*\](?!`)")


def literal_shapes(app, what, name, obj, options, lines):
    lines[:] = [SHAPE.sub(r"``\g<0>``", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", literal_shapes)
    return {"parallel_read_safe": True}
