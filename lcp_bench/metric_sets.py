"""The two sets of metrics, `mini` and `paper`: which networks each metric needs, and the metrics with these networks.

`mini` are the small networks that ship with this repository, `paper` the published ones. Their scores carry the labels
`mini` and `public`, their protocols differ, and they never share a column.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lcp_bench.errors import ConfigError
from lcp_bench.models.weights.hashing import HashCache, sha256_file
from metrics.efid import Efid
from metrics.environment import torchvision_conflict
from metrics.errors import MetricError
from metrics.faces import BoxFinder, LandmarkFinder, s3fd_finder
from metrics.fid import Fid
from metrics.fidelity import Fidelity
from metrics.frechet import Array
from metrics.fvd import Fvd
from metrics.metric import Metric
from metrics.protocol import FidelityProtocol, SyncProtocol
from metrics.sync import Sync
from metrics.weights import BACKBONES, Loaded, find_file, load_backbone

log = logging.getLogger(__name__)

MINI, PAPER = "mini", "paper"
SEEDED = "seeded-v1"
SEED = 0
SEEDED_WARNING = (
    "SEEDED BACKBONES: these numbers mean nothing except that the path from video to score works. Do not compare, "
    "average or publish them."
)
NEEDED: dict[str, tuple[str, ...]] = {
    "fvd": ("i3d_videogpt",),
    "fid": ("fid_inception",),
    "efid": ("recon_resnet50",),
    "sync": ("syncnet", "s3fd"),
    "fidelity": ("lpips_alex",),
}
"""The published backbones of each metric."""
LPIPS_ONLY = ["lpips_alex"]
SHIPPED = Path(__file__).resolve().parent.parent / "metrics" / "shipped"
ABSENT = "absent"


def metric_set(
    name: str, names: Sequence[str], backbones: Path | None = None, device: torch.device | str = "cpu"
) -> dict[str, Metric]:
    """The metrics of a set, with every network loaded, so that a wrong file shows before the first feature.

    Args:
        name: `mini`, `paper`, or `seeded-v1` (networks with random weights, to try the path).
        names: of `metric_config.METRICS`.
        backbones: folder of weight files; None takes those that ship with the repository (`mini` only).
        device: where the published networks compute; the mini ones are too small to gain by it.

    Returns:
        Name to metric; a name may become several (the mini `fvd`). `fidelity` compares with the unaccelerated video;
        see `against_ground_truth`.

    Raises:
        MetricError: weight files are missing (one message for all) or wrong, or torchvision breaks this environment.
        ConfigError: unknown set.
    """
    conflict = torchvision_conflict()
    if conflict is not None:
        raise MetricError(conflict)
    if name == MINI:
        # Imported where it is used: the published metrics need none of it.
        from metrics.mini import mini_metrics

        return dict(mini_metrics(names, backbones))
    nets = _seeded_networks(names) if name == SEEDED else _public_networks(name, names, backbones)
    for net in nets.values():
        net.module.to(device)
    return {each: _make(each, nets) for each in names}


def check_set(name: str, names: Sequence[str], backbones: Path | None) -> None:
    """Whether the files of a set are there; large ones are not loaded.

    Raises:
        MetricError: files are missing; one message for all of them.
        ConfigError: unknown set, or no folder for `paper`.
    """
    if name == SEEDED:
        return
    if name == MINI:
        metric_set(name, names, backbones)  # small enough to try
        return
    wanted, folder = needed(names), _folder(name, backbones)
    missing = missing_backbones(wanted, folder)
    if missing and not (wanted == missing == LPIPS_ONLY):
        raise MetricError(explain_missing(missing, folder, names))


def not_computed(name: str, names: Sequence[str], backbones: Path | None) -> dict[str, str]:
    """Score to why the set leaves it out: LPIPS, where fidelity alone is asked for and its file is not there."""
    if name == PAPER and backbones is not None and list(names) == ["fidelity"]:
        file = BACKBONES["lpips_alex"].file
        if missing_backbones(LPIPS_ONLY, backbones):  # PSNR and SSIM need no file
            return {"lpips": f"needs {' or '.join(file.names)} in {backbones}, from {file.source}"}
    return {}


def set_identity(name: str, names: Sequence[str], backbones: Path | None) -> dict[str, str]:
    """File or backbone to the SHA-256 of its weights, or `absent`: changes whenever the set's numbers may change."""
    if name == MINI:
        folder = SHIPPED if backbones is None else backbones
        return {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
    folder = _folder(name, backbones)
    found = dict.fromkeys(needed(names), ABSENT)
    for each in found:
        if not missing_backbones([each], folder):
            found[each] = HashCache(folder).digest(find_file(each, folder)).sha256
    return found


def needed(names: Sequence[str]) -> list[str]:
    """Published backbones of the named metrics, in their order.

    >>> needed(["sync", "fidelity"])
    ['syncnet', 's3fd', 'lpips_alex']
    """
    return [each for metric in names for each in NEEDED[metric]]


def against_ground_truth(metric: Fidelity) -> Fidelity:
    """The same comparison with the real videos instead of the unaccelerated ones: another measurement."""
    return type(metric)(metric.net, replace(metric.settings, against="ground truth"), metric.batch)


# Networks


def _folder(name: str, backbones: Path | None) -> Path:
    if name != PAPER:
        raise ConfigError(f"expected a set of metrics of {MINI}, {PAPER}, got {name!r}")
    if backbones is None:
        raise ConfigError("the published metrics need a folder of weight files; weights/metrics is usual")
    return backbones


def _public_networks(name: str, names: Sequence[str], backbones: Path | None) -> dict[str, Loaded[Any]]:
    check_set(name, names, backbones)
    if backbones is None or not_computed(name, names, backbones):
        return {}
    return {each: load_backbone(each, backbones) for each in needed(names)}


def _seeded_networks(names: Sequence[str]) -> dict[str, Loaded[Any]]:
    log.warning(SEEDED_WARNING)
    return {each: _seeded(each) for each in needed(names) if each != "s3fd"}


def _seeded(name: str) -> Loaded[Any]:
    from lcp_bench.models.weights.seeded import apply_seeded_v1

    with torch.device("meta"):
        module = BACKBONES[name].build()
    for key, tensor in module.state_dict().items():
        if not tensor.is_floating_point():  # counters of batch norms, which nothing reads in eval mode
            owner, _, last = key.rpartition(".")
            module.get_submodule(owner).register_buffer(last, torch.zeros(tensor.shape, dtype=tensor.dtype))
    apply_seeded_v1(module, SEED)
    return Loaded.of(module, name, f"{SEEDED}:{SEED}", SEEDED)


def missing_backbones(names: Sequence[str], folder: Path) -> list[str]:
    """Those of the named backbones that have no file in a folder."""
    missing = []
    for name in names:
        try:
            find_file(name, folder)
        except MetricError:
            missing.append(name)
    return missing


def explain_missing(missing: Sequence[str], folder: Path, names: Sequence[str]) -> str:
    """One message for all weight files that are not there: what, for which metric, from where, and its checksum."""
    lines = [
        f"{len(missing)} weight files are not in {folder.absolute()}; nothing is downloaded while scoring. Get them "
        "with python -m lcp_bench.fetch +metric=paper, or put each there under its published name:"
    ]
    for name in missing:
        file = BACKBONES[name].file
        users = [metric for metric in names if name in NEEDED[metric]]
        lines += [f"  {folder / file.names[0]}", f"      {name}, for {', '.join(users)}", f"      {file.source}"]
        if len(file.names) > 1:
            lines.append(f"      also found as {', '.join(file.names[1:])}")
        if file.sha256:
            lines.append(f"      SHA-256 {file.sha256}{'' if len(file.sha256) == 64 else ' ... (first digits)'}")
        elif file.git_blob:
            lines.append(f"      git blob {file.git_blob}")
    return "\n".join(lines)


# Metrics


def _make(name: str, nets: Mapping[str, Loaded[Any]]) -> Metric:
    makers: dict[str, Callable[[], Metric]] = {
        "fvd": lambda: Fvd(nets["i3d_videogpt"]),
        "fid": lambda: Fid(nets["fid_inception"]),
        "efid": lambda: Efid(nets["recon_resnet50"], LandmarkFinder("cascade, points from its box", _cascade_points)),
        "sync": lambda: Sync(nets["syncnet"], _boxes(nets.get("s3fd"))),
        "fidelity": lambda: Fidelity(nets.get("lpips_alex"), FidelityProtocol(against="unaccelerated")),
    }
    return makers[name]()


def _boxes(net: Loaded[Any] | None) -> BoxFinder:
    """S3FD; without it (seeded, it would see no faces) the project's own cascade stands in."""
    return BoxFinder("cascade", _cascade_boxes) if net is None else s3fd_finder(net, SyncProtocol())


def _cascade_boxes(image: NDArray[np.uint8]) -> Array:
    from lcp_bench.data.faces import detect_faces

    return np.array([[*face.box, face.support] for face in detect_faces(image)], dtype=np.float64).reshape(-1, 5)


def _cascade_points(image: NDArray[np.uint8]) -> Array | None:
    from lcp_bench.data.faces import detect_faces

    faces = detect_faces(image)
    return faces[0].landmarks5 if faces else None
