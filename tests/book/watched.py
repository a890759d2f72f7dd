"""A page of a browser that refuses the network, and what went wrong on it."""


def watched(page) -> list[str]:
    """Errors of a page and its requests to the network, in a list that grows while it is open."""
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    page.on("request", lambda r: trouble.append(f"request: {r.url}") if r.url.startswith(("http:", "https:")) else None)
    page.route("http*://**", lambda route: route.abort())
    return trouble
