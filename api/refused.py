"""An answer that is not a picture."""

from aiohttp import web


class Refused(Exception):
    """Its status, what is wrong, and what else the answer says; `close`: the connection has nothing more to give."""

    def __init__(self, status: int, message: str, headers: dict | None = None, close: bool = False, **more):
        super().__init__(message)
        self.status, self.headers, self.close, self.more = status, headers, close, more

    def answer(self) -> web.Response:
        response = web.json_response({"error": str(self), **self.more}, status=self.status, headers=self.headers)
        if self.close:
            response.force_close()
        return response
