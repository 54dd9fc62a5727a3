"""A plain download for hosts that are not the model hub: no token, no header of ours, no cookie, checked by its pin.

The hub's client sends the user's token with each request, and other clients read passwords from `.netrc`. Here nothing
of that is read: the request carries what HTTP itself needs and no more, wherever it is redirected to.
"""

from __future__ import annotations

import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from lcp_bench.errors import WeightsError
from lcp_bench.models.weights.hub import HubRefused, HubUnreachable

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
CHUNK = 1 << 20
LIMIT_BYTES = 2 * 10**9
"""No weight file of a metric is larger; an endless answer ends here."""


def download(url: str, target: Path, matches: Callable[[Path], str | None], limit_bytes: int = LIMIT_BYTES) -> None:
    """Download a file beside its place, check it, and move it there.

    Args:
        url: http or https, without a login.
        target: where it goes; an existing file is replaced only by one that passed the check.
        matches: what is wrong with a downloaded file, or None if it is the expected one.
        limit_bytes: a longer answer is refused.

    Raises:
        HubUnreachable: there is no network, or the connection broke.
        HubRefused: the host answered with an error.
        WeightsError: what came is not the expected file; it is deleted.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" in parts.netloc:
        raise WeightsError(f"expected an http address without a login, got {url!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _receive(url, partial, limit_bytes)
        problem = matches(partial)
        if problem is not None:
            raise WeightsError(f"what came from {url} is not the expected file: {problem}; it was deleted")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _receive(url: str, partial: Path, limit_bytes: int) -> None:
    opener = urllib.request.build_opener(_HttpOnly)
    opener.addheaders = []  # not even the name of the client
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer, partial.open("wb") as stream:
            declared = answer.headers.get("Content-Length")
            received = 0
            while chunk := answer.read(CHUNK):
                received += stream.write(chunk)
                if received > limit_bytes:
                    raise WeightsError(f"{url} sends more than the {limit_bytes} bytes that are expected; stopped")
        if declared is not None and received < int(declared):
            raise HubUnreachable(f"{url}: the connection was lost after {received} of {declared} bytes")
    except urllib.error.HTTPError as error:
        raise HubRefused(f"{url}: {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise HubUnreachable(f"{urlsplit(url).netloc}: {reason}") from error


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Redirects that never leave HTTP, and carry nothing along."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """A fresh request for the new address; a redirect to another scheme is refused."""
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(newurl, code, "redirected away from HTTP", headers, fp)
        return urllib.request.Request(newurl)
