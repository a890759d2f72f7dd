"""Pages in Chinese say so, to screen readers and to fonts."""


def language_of_page(app, pagename, templatename, context, doctree):
    """A page whose name ends in _zh is in simplified Chinese; all others are in the book's language."""
    if pagename.endswith("_zh"):
        context["language"] = "zh-Hans"


def setup(app):
    app.connect("html-page-context", language_of_page)
    return {"parallel_read_safe": True}
