"""From the `dataset` group of the configuration to a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lcp_bench.data.demo import load_demo
from lcp_bench.data.folder import FolderOptions, load_folder
from lcp_bench.data.manifest import Manifest
from lcp_bench.data.prepared import PREPARED, load_prepared
from lcp_bench.data.synthetic.dataset import NAMES, load_synthetic
from lcp_bench.errors import ConfigError

if TYPE_CHECKING:
    from lcp_bench.config import DatasetConfig, PathsConfig


def load_dataset(config: DatasetConfig, paths: PathsConfig) -> Manifest:
    """The frozen manifest of a configured data set; written on first use.

    Args:
        config: Name, root and listing options.
        paths: `cache` takes the manifest of a read-only root; `data` holds the demo when no root is given.

    Returns:
        The manifest; `len(manifest.clips)` is at least 1.

    Raises:
        ConfigError: Unknown name or option, or a face detector that is not available.
        DatasetError: Missing root, no clips, or a file that changed since the manifest was written.
    """
    if config.name == "demo":
        return load_demo(Path(config.root) if config.root else Path(paths.data) / "demo")
    if config.name == "folder":
        options = FolderOptions(
            pairing=config.pairing,
            kind=getattr(config, "kind", "all"),
            face_detector=config.face_detector,
            insightface_root=getattr(config, "insightface_root", None),
        )
        return load_folder(config.root, paths.cache, options)
    if config.name in PREPARED:
        return load_prepared(config.name, config.root)
    if config.name in NAMES:
        return _synthetic(config)
    raise ConfigError(
        f"dataset.name must be one of demo, folder, {', '.join((*PREPARED, *NAMES))}, got {config.name!r}; "
        "use +dataset=folder dataset.root=..."
    )


def _synthetic(config: DatasetConfig) -> Manifest:
    options = config.synthetic
    if options is None:
        raise ConfigError(f"dataset.synthetic must be a group of keys, got null; use +dataset={config.name} as it is")
    if config.name not in ("synthetic", options.family):
        raise ConfigError(
            f"dataset.synthetic.family must be {config.name} for that data set, got {options.family!r}; "
            f"use +dataset={options.family}"
        )
    return load_synthetic(config.root, options)
