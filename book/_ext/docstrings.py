"""Two things Sphinx does not know about this package's docstrings."""

import pkgutil
import re

SHAPE = re.compile(r"(?<![`\w])\[[^][`]*\*\w+[^][`]*\](?!`)")


def literal_shapes(app, what, name, obj, options, lines):
    """A shape is written [n, *input]; reStructuredText would read that star as emphasis."""
    lines[:] = [SHAPE.sub(r"``\g<0>``", line) for line in lines]


def public_names(app, env, node, contnode):
    """``mlcore.MAML`` and ``mlcore.nets.conv4`` are documented under the modules that define them: link there."""
    if node.get("refdomain") != "py" or not node["reftarget"].startswith("mlcore."):
        return None
    try:
        thing = pkgutil.resolve_name(node["reftarget"])
        target = f"{thing.__module__}.{thing.__qualname__}"
    except (ImportError, AttributeError):
        return None
    return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, node["reftype"], target, node, contnode)


def setup(app):
    app.connect("autodoc-process-docstring", literal_shapes)
    app.connect("missing-reference", public_names)
    return {"parallel_read_safe": True}
