"""Two things Sphinx does not know about this package's docstrings."""

import re

import mlcore

SHAPE = re.compile(r"(?<![`\w])\[[^][`]*\*\w+[^][`]*\](?!`)")


def literal_shapes(app, what, name, obj, options, lines):
    """A shape is written [n, *input]; reStructuredText would read that star as emphasis."""
    lines[:] = [SHAPE.sub(r"``\g<0>``", line) for line in lines]


def public_names(app, env, node, contnode):
    """``mlcore.MAML`` is documented under the module that defines it: link there."""
    package, _, name = node["reftarget"].rpartition(".")
    if node.get("refdomain") != "py" or package != "mlcore" or name not in mlcore.__all__:
        return None
    thing = getattr(mlcore, name)
    target = f"{thing.__module__}.{thing.__qualname__}"
    return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, node["reftype"], target, node, contnode)


def setup(app):
    app.connect("autodoc-process-docstring", literal_shapes)
    app.connect("missing-reference", public_names)
    return {"parallel_read_safe": True}
