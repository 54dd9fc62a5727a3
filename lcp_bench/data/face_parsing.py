"""A portrait's foreground from face parsing, where nobody gave one (arXiv 2509.00052: the mask of its attention).

The paper names the parser (yakhyo/face-parsing) and neither its backbone nor the classes; both are options of the data
set. What is parsed is what the model animates: of a cropped portrait the crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from lcp_bench.errors import ConfigError, WeightsError
from lcp_bench.models.weights.hashing import HashCache
from metrics.errors import MetricError
from metrics.nets.bisenet import BiSeNet
from metrics.parsing import CLASS_SETS, parse
from metrics.weights import SOURCE, find_file, load_backbone, stored_metadata

PARSERS = ("bisenet_yakhyo_resnet18", "bisenet_yakhyo_resnet34", "bisenet")
"""Published parsers in the order in which `auto` looks for their files: the paper's first."""


@dataclass(frozen=True)
class FaceParser:
    """A face parser on disk; its weights are read with the first portrait.

    Attributes:
        name: Of `PARSERS`.
        folder: Where its file lies.
        sha256: Of the published file, also where that was converted.
        classes: What counts as foreground, of `metrics.parsing.CLASS_SETS`.
    """

    name: str
    folder: Path
    sha256: str
    classes: str

    @property
    def identity(self) -> dict[str, str]:
        """What the masks depend on, for the run's identity."""
        return {"parser": self.name, "sha256": self.sha256, "classes": self.classes}

    @cached_property
    def _network(self) -> BiSeNet:
        try:
            network: BiSeNet = load_backbone(self.name, self.folder).module
        except MetricError as error:
            raise WeightsError(f"{error}; or use dataset.face_parser=none") from error
        return network

    def foreground(self, image: NDArray[np.uint8]) -> tuple[torch.Tensor, str]:
        """The foreground of a picture and the record's word for where it came from.

        Args:
            image: uint8 (height, width, 3), RGB.

        Returns:
            float32 (512, 512), 1 in the foreground and 0 elsewhere. A picture in which the parser sees no such class is
            foreground everywhere: then nothing is restricted, and nothing is lost.

        Raises:
            WeightsError: The file does not fit the network, or is not the published one.
        """
        inside = np.isin(parse(self._network, image), CLASS_SETS[self.classes])
        if not inside.any():
            return torch.ones(inside.shape), f"{self.name} found none: everything"
        return torch.from_numpy(inside.astype(np.float32)), self.name


def find_parser(wanted: str, classes: str, folder: Path) -> FaceParser | None:
    """The parser that is there; no weights are read.

    Args:
        wanted: `auto` takes the first of `PARSERS` whose file is there, if any; `none`; or one of them.
        classes: What counts as foreground.
        folder: The weight files of the public networks.

    Raises:
        ConfigError: The parser that was asked for has no file.
        WeightsError: Its file is broken.
    """
    if wanted == "none":
        return None
    for name in PARSERS if wanted == "auto" else (wanted,):
        try:
            path = find_file(name, folder)
        except MetricError as error:
            if wanted != "auto":
                raise ConfigError(f"dataset.face_parser={wanted}: {error}") from error
            continue
        return FaceParser(name, folder, _published_sha256(path), classes)
    return None


def _published_sha256(path: Path) -> str:
    """Hash of the published file; a converted one says which it was made from."""
    if path.suffix == ".safetensors":
        try:
            source = stored_metadata(path).get(SOURCE)
        except SafetensorError as error:
            raise WeightsError(
                f"{path} cannot be read ({error}); replace it or use dataset.face_parser=none"
            ) from error
        if source:
            return source
    return HashCache(path.parent).digest(path).sha256
