"""Features on disk, addressed by content: the same video under the same protocol and weights is computed once.

One safetensors file per key, written beside its place and moved there, so that a reader sees all of it or nothing.
Changing a video, a protocol or a weight file changes the key: an old feature cannot be read by mistake. What a file
says about itself is compared with what was asked for all the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from metrics.errors import MetricError

log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]
LAYOUT = "1"


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What features depend on.

    Attributes:
        videos: SHA-256 of the files, in order.
        protocol: the protocol's `feature_hash`.
        weights: the protocol's `weights_hash`.
    """

    videos: tuple[str, ...]
    protocol: str
    weights: str

    @property
    def digest(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(json.dumps([LAYOUT, self.videos, self.protocol, self.weights]).encode()).hexdigest()

    def as_metadata(self) -> dict[str, str]:
        """The key as the file repeats it."""
        videos = ",".join(self.videos)
        return {"layout": LAYOUT, "videos": videos, "protocol": self.protocol, "weights": self.weights}


@dataclass(frozen=True, slots=True)
class Gap:
    """Why a video has no features; `reason` is one of `metrics.errors.GAP_REASONS`."""

    reason: str
    message: str


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class FeatureCache:
    """A folder of features, shared by all runs; several processes may use it at once.

    Args:
        root: the folder; it is made when the first feature is written.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def path(self, key: CacheKey) -> Path:
        """Where a key's file is or would be."""
        return self.root / key.digest[:2] / f"{key.digest}.safetensors"

    def read(self, key: CacheKey) -> Arrays | Gap | None:
        """Features of a key, or why there are none, or None when nothing is stored.

        A file that is damaged or that names another key is reported, ignored, and written anew by the next `write`.
        """
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "numpy") as stored:
                metadata: Mapping[str, str] = stored.metadata() or {}
                if any(metadata.get(name) != value for name, value in key.as_metadata().items()):
                    log.warning("%s names another video, protocol or weights than its place; computed again", path)
                    return None
                if "gap" in metadata:
                    return Gap(metadata["gap"], metadata["message"])
                names = stored.keys()
                return {name: stored.get_tensor(name) for name in names}
        except (SafetensorError, OSError, KeyError) as error:
            log.warning("%s cannot be read (%s); computed again", path, error)
            return None

    def write(self, key: CacheKey, content: Mapping[str, NDArray[Any]] | Gap) -> None:
        """Store features, or the reason why there are none, in one step.

        Raises:
            MetricError: the folder cannot be written.
        """
        path, metadata = self.path(key), key.as_metadata()
        if isinstance(content, Gap):
            metadata |= {"gap": content.reason, "message": content.message}
        arrays = {} if isinstance(content, Gap) else {k: np.ascontiguousarray(v) for k, v in content.items()}
        temporary: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
            os.close(handle)
            save_file(arrays, temporary, metadata)
            os.replace(temporary, path)
            temporary = None
        except OSError as error:
            raise MetricError(
                f"features cannot be stored in {self.root} ({error.strerror or error}); free some space, or choose "
                "another folder with paths.cache"
            ) from error
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
