"""Talk to the model hub: describe a public file, download it, and say in one word why that failed."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lcp_bench.models.weights.sources import PublicFile

log = logging.getLogger(__name__)

T = TypeVar("T")

PROBE_TIMEOUT_S = 10.0
PROBE_LIMIT_S = 25.0
ATTEMPTS = 5
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
BRANCH = "main"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubUnreachable(Exception):
    """There is no network, or the hub library was told to stay offline; trying further files is useless."""


class HubRefused(Exception):
    """The hub answered, but does not give this file (moved, gated, server error)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """What the hub says of a file: commit, SHA-256 (`None` for small files kept in git), size in bytes."""

    revision: str | None
    sha256: str | None
    size_bytes: int | None


class Hub:
    """The public model hub, through `huggingface_hub` (its variables `HF_ENDPOINT`, `HF_HUB_OFFLINE` hold)."""

    def url(self, file: PublicFile) -> str:
        """Address a person can open."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(file.repository, file.path, revision=file.revision or BRANCH)

    def describe(self, file: PublicFile, revision: str | None) -> RemoteFile:
        """Ask for commit, SHA-256 and size of a file; one request, a hard limit of `PROBE_LIMIT_S`.

        Raises:
            HubUnreachable: no network, or offline mode.
            HubRefused: the hub answered with an error.
        """
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

        if constants.HF_HUB_OFFLINE:
            raise HubUnreachable("HF_HUB_OFFLINE is set")
        url = hf_hub_url(file.repository, file.path, revision=revision or BRANCH)
        metadata = _translated(lambda: _limited(lambda: get_hf_file_metadata(url, timeout=PROBE_TIMEOUT_S)))
        sha256 = metadata.etag if metadata.etag and _SHA256.fullmatch(metadata.etag) else None
        return RemoteFile(revision=metadata.commit_hash, sha256=sha256, size_bytes=metadata.size)

    def download(self, file: PublicFile, revision: str | None, folder: Path) -> Path:
        """Download a file below `folder`, going on where an earlier attempt stopped; returns its path.

        The hub library's own download starts anew after every interruption (1.33), which is of no use for files of
        5 GB; so the bytes are taken from the same address here, with a range request.

        Args:
            file: what to download.
            revision: commit; without one an earlier attempt is not continued, since it may be of another version.
            folder: where partial files live; created.

        Raises:
            HubUnreachable: the network went away.
            HubRefused: the hub answered with an error.
            OSError: the disk is full or not writable.
        """
        from huggingface_hub import hf_hub_url

        part = folder / f"{file.path}.{revision or BRANCH}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        if revision is None:
            part.unlink(missing_ok=True)
        url = hf_hub_url(file.repository, file.path, revision=revision or BRANCH)
        for attempt in range(ATTEMPTS):
            before = _size(part)
            try:
                _translated(lambda: _append(url, part, file.path))
                return part
            except HubUnreachable:
                if attempt == ATTEMPTS - 1 or (attempt and _size(part) == before):
                    raise
                log.info(
                    "%s: connection lost after %d bytes, going on",
                    file.path,
                    _size(part),
                )
                time.sleep(attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")


def _append(url: str, part: Path, name: str) -> None:
    """Add what is missing to a partial file."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )
    from tqdm import tqdm  # type: ignore[import-untyped]

    have = _size(part)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=timeout) as response:
        if response.status_code == RANGE_NOT_SATISFIABLE:  # nothing is missing, or what is there is too long
            return
        if response.is_error:
            response.read()
        hf_raise_for_status(response)
        continued = response.status_code == PARTIAL_CONTENT
        total = int(response.headers.get("Content-Length") or 0) + have * continued
        bar = tqdm(
            total=total or None,
            initial=have * continued,
            unit="B",
            unit_scale=True,
            desc=name,
            disable=None,
        )
        with part.open("ab" if continued else "wb") as stream, bar:
            for chunk in response.iter_bytes():
                bar.update(stream.write(chunk))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _translated(call: Callable[[], T]) -> T:
    """Run a hub call and turn its many exceptions into the two that matter."""
    import httpx
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError

    try:
        return call()
    except (HfHubHTTPError, FileMetadataError) as error:
        raise HubRefused(_line(error)) from error
    except (httpx.TransportError, ConnectionError, TimeoutError) as error:
        raise HubUnreachable(_line(error)) from error


def _limited(call: Callable[[], T]) -> T:
    """Run a call in a thread and give up after `PROBE_LIMIT_S`: looking up a name can hang longer than any timeout."""
    results: list[T] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:  # raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True, name="hub-probe")
    thread.start()
    thread.join(PROBE_LIMIT_S)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {PROBE_LIMIT_S:.0f} s")
    return results[0]


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:160]


def quiet_hub() -> None:
    """Keep the hub library's own warnings out of the message the user gets; must run before it is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
