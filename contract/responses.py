"""An answer that is not a picture."""

from aiohttp import web

from .schema import wrong_method


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


def check_method(request: web.Request, *allowed: str) -> None:
    if request.method not in allowed:
        raise Refused(405, wrong_method(request.method, allowed), {"Allow": ", ".join(allowed)})
