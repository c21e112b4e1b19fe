"""The smallest falcon application that answers with as much as a secret is."""

from falcon.asgi import App, Request, Response

BODY = b"x" * 1700


class Constant:
    """One resource, one answer."""

    async def on_get(self, _request: Request, response: Response, name: str) -> None:
        """Answer without looking at anything."""
        del name
        response.data = BODY


app = App()
app.add_route("/{name}", Constant())
