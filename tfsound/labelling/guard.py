"""What stands before the application: who may ask, and what every reply forbids the browser.

The address holds a random token; whoever does not know it gets nothing. A page from elsewhere that the
browser has open cannot learn it, and neither DNS rebinding (the Host header is checked) nor a forged request
(the Origin header is) gets past.
"""

import hmac
import ipaddress
import re
import socket

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tfsound.labelling.address import is_loopback

# Nothing but the page's own files, no inline script or style, in no frame. `data:` is the empty icon.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """ASGI middleware: 403 without the token or with a foreign Host or Origin; `HEADERS` on every reply.

    Args:
      app: what is guarded, with its routes under `/<token>/`.
      token: that of the run.
      host, port: what the server listens on.
    """

    def __init__(self, app: ASGIApp, *, token: str, host: str, port: int):
        self._app = app
        self._token = token.encode()
        self._host, self._port = host, port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no lifespan to take part in, no web sockets

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        app = self._app if refusal is None else refusal
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_own_host(host):
            return _forbid(
                "The Host header names another machine; open the address that `tfsound label` printed."
            )
        first = scope["path"].removeprefix("/").split("/", 1)[0]
        if not hmac.compare_digest(first.encode("utf-8", "surrogatepass"), self._token):
            return _forbid(
                "The address lacks the token of this run; open the one that `tfsound label` printed."
            )
        if origin is not None and origin != f"http://{host}":
            return _forbid("The request comes from another page than this server's own.")
        return None

    def _is_own_host(self, header: str) -> bool:
        """Names that an attacker's DNS answers for are refused; numbers are nobody's to rebind."""
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", header)
        if match is None or int(match[2] or 80) != self._port:
            return False
        name = match[1].strip("[]").lower()
        if is_loopback(name) or name == self._host.lower():
            return True
        if is_loopback(self._host):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in (socket.gethostname().lower(), socket.getfqdn().lower())
        return True


def _forbid(reason: str) -> Response:
    return JSONResponse({"error": reason}, 403)
