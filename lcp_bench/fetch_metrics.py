"""`python -m lcp_bench.fetch +metric=paper`: the backbones of the published metrics, as plain tensors in one folder.

`+parser=bisenet` brings the face parser for foreground masks into the same folder in the same way.

A file that the user has put there under its published name is taken. What is missing is fetched: from the model hub
through its client, from other hosts by a plain download that carries no token. Each file is held against its pin,
converted once into safetensors by a process without network, and loaded to see that every key and shape fits.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lcp_bench.data.face_parsing import PARSERS
from lcp_bench.errors import ConfigError, LcpBenchError, WeightsError
from lcp_bench.fetch_convert import convert
from lcp_bench.fetch_plain import download
from lcp_bench.metric_sets import MINI, NEEDED, PAPER
from lcp_bench.models.weights.hashing import sha256_file
from lcp_bench.models.weights.hub import Hub, HubRefused, HubUnreachable
from lcp_bench.models.weights.sources import PublicFile
from metrics.weights import BACKBONES, FOLDER, SOURCE, SOURCE_BLOB, find_file, git_blob_id, load_backbone

log = logging.getLogger(__name__)

STAGING = ".fetch"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a published file is fetched from: a repository of the model hub, or an address."""

    hub: tuple[str, str] | None = None
    url: str | None = None


ORIGINS: dict[str, tuple[Origin, ...]] = {
    "i3d_videogpt": (Origin(url="https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt"),),
    "fid_inception": (
        Origin(
            url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth"
        ),
    ),
    "recon_resnet50": (Origin(hub=("vinthony/SadTalker", "epoch_20.pth")),),
    "syncnet": (
        Origin(url="https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model"),
        Origin(hub=("ByteDance/LatentSync-1.5", "auxiliary/syncnet_v2.model")),
    ),
    "s3fd": (Origin(url="https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/sfd_face.pth"),),
    "lpips_alex": (Origin(url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"),),
    "bisenet": (Origin(hub=("ManyOtherFunctions/face-parse-bisent", "79999_iter.pth")),),
}
"""Backbone to where its file is tried, in this order; whatever comes must be the pinned file."""


@dataclass(frozen=True, slots=True)
class MetricFetch:
    """Backbones by what happened to them."""

    fetched: tuple[str, ...]
    kept: tuple[str, ...]


def fetch_metrics(name: str, root: Path, *, force: bool = False, hub: Hub | None = None) -> MetricFetch:
    """Bring the backbones of a set of metrics into `root`/metrics.

    Args:
        name: `paper`; `mini` needs nothing.
        root: `paths.weights`.
        force: replace files that are there and wrong.
        hub: the hub to talk to (tests pass their own).

    Raises:
        ConfigError: unknown set.
        WeightsError: files are missing or wrong afterwards; one message for all of them.
    """
    if name == MINI:
        log.info("the mini metrics ship with this repository; nothing is fetched for them")
        return MetricFetch((), ())
    if name != PAPER:
        raise ConfigError(f"expected +metric={PAPER} (or {MINI}, which needs no files), got +metric={name}")
    names = list(dict.fromkeys(each for needed in NEEDED.values() for each in needed))
    return _fetch_all(f"+metric={PAPER}", names, root, force, hub)


def fetch_parser(name: str, root: Path, *, force: bool = False, hub: Hub | None = None) -> MetricFetch:
    """Bring the weights of a face parser into `root`/metrics; arguments and errors as `fetch_metrics`.

    Args:
        name: One of `lcp_bench.data.face_parsing.PARSERS`. Of some no checksum is published; their files are not
            fetched, but checked and converted when the user has put them there.
        root: `paths.weights`.
        force: replace files that are there and wrong.
        hub: the hub to talk to (tests pass their own).
    """
    if name not in PARSERS:
        raise ConfigError(f"expected +parser=NAME, one of {', '.join(PARSERS)}, got +parser={name}")
    return _fetch_all(f"+parser={name}", [name], root, force, hub)


def _fetch_all(asked: str, names: Sequence[str], root: Path, force: bool, hub: Hub | None) -> MetricFetch:
    fetcher = _Fetcher(root / FOLDER, hub or Hub(), force)
    fetched: list[str] = []
    kept: list[str] = []
    problems: dict[str, str] = {}
    for each in names:
        try:
            (fetched if fetcher.bring(each) else kept).append(each)
        except LcpBenchError as error:
            problems[each] = str(error)
    shutil.rmtree(root / FOLDER / STAGING, ignore_errors=True)
    if problems:
        raise WeightsError(_explain(asked, root / FOLDER, problems, len(names)))
    return MetricFetch(tuple(fetched), tuple(kept))


class _Fetcher:
    def __init__(self, folder: Path, hub: Hub, force: bool) -> None:
        self.folder, self.hub, self.force = folder, hub, force
        self.offline: dict[str, str] = {}

    def bring(self, name: str) -> bool:
        """See that a backbone's file is there, right and plain; whether it had to be fetched.

        Raises:
            LcpBenchError: it cannot be fetched, is not the pinned file, or does not fit the network.
        """
        target = self.folder / Path(BACKBONES[name].file.names[0]).with_suffix(".safetensors")
        published = self._published(name)
        fetched = False
        if published is None:
            published = self._fetch(name)
            fetched = True
        if published.suffix != ".safetensors":
            problem = pin_problem(name, published)
            if problem is not None:
                raise WeightsError(f"{published}: {problem}; replace it, or delete it to have it fetched")
            log.info("%s: converting %s into safetensors, once", name, published.name)
            blob = git_blob_id(published) or ""
            metadata = {SOURCE: sha256_file(published), SOURCE_BLOB: blob}
            convert(published, target, metadata, BACKBONES[name].file.entry)
        load_backbone(name, self.folder)
        return fetched

    def _published(self, name: str) -> Path | None:
        """The file that is there; None where none is, or where a wrong one is to be replaced."""
        try:
            path = find_file(name, self.folder)
        except LcpBenchError:
            return None
        if not self.force:
            return path
        try:
            load_backbone(name, self.folder)
        except LcpBenchError as error:
            log.warning("%s is replaced: %s", path, error)
            path.unlink()
            return self._published(name)
        return path

    def _fetch(self, name: str) -> Path:
        """Download a file to the staging folder, verified; its places are tried in order."""
        target = self.folder / STAGING / BACKBONES[name].file.names[0]
        said = []
        if not is_pinned(name):
            raise WeightsError("missing, and not fetched because no checksum of it is published")
        for origin in ORIGINS.get(name, ()):
            host = "the hub" if origin.hub else str(origin.url).split("/")[2]
            if host in self.offline:
                said.append(self.offline[host])
                continue
            try:
                self._take(name, origin, target)
                return target
            except HubUnreachable as error:
                self.offline[host] = str(error)
                said.append(str(error))
            except (HubRefused, WeightsError) as error:
                said.append(str(error))
        raise WeightsError("; ".join(said) or "it is not offered anywhere that a program can fetch from")

    def _take(self, name: str, origin: Origin, target: Path) -> None:
        def matches(path: Path) -> str | None:
            return pin_problem(name, path)

        if origin.url is not None:
            log.info("%s: fetching %s", name, origin.url)
            download(origin.url, target, matches)
            return
        repository, path = origin.hub or ("", "")
        file = PublicFile(repository=repository, path=path)
        log.info("%s: fetching %s from %s", name, path, repository)
        remote = self.hub.describe(file, None)
        staged = self.hub.download(file, remote.revision, self.folder / STAGING / repository.replace("/", "--"))
        problem = matches(staged)
        if problem is not None:
            staged.unlink()
            raise WeightsError(f"what came from {self.hub.url(file)} is not the expected file: {problem}")
        shutil.move(staged, target)


def is_pinned(name: str) -> bool:
    """Whether a checksum of the backbone's file is published; what has none is taken from the user only."""
    file = BACKBONES[name].file
    return file.sha256 is not None or file.git_blob is not None


def pin_problem(name: str, path: Path) -> str | None:
    """What is wrong with a published file of a backbone, or None if its checksum is the published one, or none is."""
    file = BACKBONES[name].file
    if file.sha256 is not None:
        found = sha256_file(path)
        if found.startswith(file.sha256):
            return None
        return f"expected SHA-256 {file.sha256}, got {found} of {path.stat().st_size} bytes"
    if file.git_blob is not None:
        blob = git_blob_id(path)
        return None if blob == file.git_blob else f"expected git blob {file.git_blob}, got {blob}"
    return None


def _explain(asked: str, folder: Path, problems: Mapping[str, str], total: int) -> str:
    """One message for everything that is missing or wrong: what, for which metric, from where, and why not."""
    lines = [
        f"{asked}: {len(problems)} of {total} weight files are missing or wrong in {folder.absolute()}; what "
        "cannot be fetched, get elsewhere and put there by hand under its published name:"
    ]
    for name, problem in problems.items():
        file = BACKBONES[name].file
        users = [metric for metric, needed in NEEDED.items() if name in needed] or ["foreground masks"]
        lines += [f"  {folder / file.names[0]}", f"      {name}, for {', '.join(users)}", f"      {file.source}"]
        lines += [f"      {_address(origin)}" for origin in ORIGINS.get(name, ())]
        pin = f"git blob {file.git_blob}" if file.git_blob else "no checksum is published"
        lines += [f"      {f'SHA-256 {file.sha256}' if file.sha256 else pin}", f"      problem: {problem}"]
    lines.append(
        "run the same command again to go on: what is there and right is kept; force=true replaces what is wrong; "
        "metric.metrics=[...] of a run needs only the files of its own metrics"
    )
    return "\n".join(lines)


def _address(origin: Origin) -> str:
    return str(origin.url) if origin.hub is None else f"hub: {origin.hub[0]}, {origin.hub[1]}"
