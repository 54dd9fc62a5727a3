"""`python -m lcp_bench.fetch +model=hallo`: bring the public files into `paths.weights`, verified and resumable.

A file is downloaded beside its place, compared with its pinned SHA-256 (or with the one noted in `weights.lock.json`
by the first fetch), and only then moved to its place. What is there and verified is skipped. Without network nothing
is tried twice: one message lists what is missing, from where, how large, and where to put it by hand.
"""

from __future__ import annotations

import difflib
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lcp_bench.errors import ConfigError, LcpBenchError, WeightsError
from lcp_bench.models.weights.hashing import FileDigest, HashCache
from lcp_bench.models.weights.hub import Hub, HubRefused, HubUnreachable, quiet_hub
from lcp_bench.models.weights.lockfile import LockEntry, read_lock, write_lock
from lcp_bench.models.weights.sources import (
    SOURCES,
    PublicFile,
    files_for,
    format_bytes,
)

log = logging.getLogger(__name__)

STAGING = ".fetch"
DEFAULT_ROOT = Path("weights")

USAGE = """\
usage: python -m lcp_bench.fetch [+model=NAME] [+metric=paper] [+parser=NAME] [paths.weights=FOLDER]
                                 [extras=GROUP,...] [force=true]

  +model=NAME            one of: {models}
  +metric=paper          the networks of the published metrics, into FOLDER/metrics
  +parser=NAME           a face parser for foreground masks, bisenet for example, into FOLDER/metrics
  paths.weights=FOLDER   where the files go (default: {root})
  extras=GROUP,...       optional files too: {extras}
  force=true             fetch again what is there but is not the expected file
"""


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """What the command line asked for: the files of a model, of a set of metrics, of a face parser, or several."""

    model: str = ""
    root: Path = DEFAULT_ROOT
    extras: tuple[str, ...] = ()
    force: bool = False
    metric: str = ""
    parser: str = ""


@dataclass(frozen=True, slots=True)
class FetchResult:
    """Places (paths below the weights folder) by what happened to them."""

    fetched: tuple[str, ...]
    kept: tuple[str, ...]


class Fetcher:
    """Brings the files of one request; see `fetch`."""

    def __init__(self, request: FetchRequest, hub: Hub) -> None:
        self.request = request
        self.root = request.root
        self.hub = hub
        self.hashes = HashCache(request.root)
        self.lock = read_lock(request.root)

    def expected(self, file: PublicFile) -> str | None:
        """SHA-256 a file must have: pinned, or noted by the first fetch, or `None`."""
        entry = self.lock.get(file.place)
        return file.sha256 or (entry.sha256 if entry else None)

    def revision(self, file: PublicFile) -> str | None:
        """Commit to fetch from: pinned, or the one of the first fetch, or `None` for the branch."""
        entry = self.lock.get(file.place)
        return file.revision or (entry.revision if entry else None)

    def check_present(self, file: PublicFile) -> str | None:
        """Verify a file that is there; the problem in words, or `None` if it is the right one."""
        digest = self.hashes.digest(self.root / file.place)
        expected = self.expected(file)
        if digest.size_bytes == 0:
            return "the file is empty"
        if expected is None:
            log.info(
                "%s: found, nothing to compare it with; its SHA-256 is noted",
                file.place,
            )
        elif digest.sha256 != expected:
            size = f" of {file.size_bytes} bytes" if file.size_bytes else ""
            return f"expected SHA-256 {expected}{size}, got {digest.sha256} of {digest.size_bytes} bytes"
        self._note(file, self.revision(file), digest)
        return None

    def bring(self, file: PublicFile) -> None:
        """Download one file, verify it, move it to its place, note it in the lock.

        Raises:
            HubUnreachable: no network.
            HubRefused: the hub does not give the file.
            WeightsError: what came is not the expected file.
        """
        remote = self.hub.describe(file, self.revision(file))
        revision = self.revision(file) or remote.revision
        log.info("%s: fetching %s from %s", file.place, file.size_text, file.repository)
        staged = self.hub.download(file, revision, self.root / STAGING / file.repository.replace("/", "--"))
        digest = HashCache(self.root / STAGING).digest(staged)
        expected = self.expected(file) or remote.sha256
        if not digest.size_bytes or (expected is not None and digest.sha256 != expected):
            staged.unlink()
            raise WeightsError(
                f"what came from {self.hub.url(file)} is not the expected file: expected SHA-256 {expected}, got "
                f"{digest.sha256} of {digest.size_bytes} bytes; it was deleted, run the command again"
            )
        target = self.root / file.place
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, target)
        self._note(file, revision, digest)

    def _note(self, file: PublicFile, revision: str | None, digest: FileDigest) -> None:
        entry = LockEntry(
            repository=file.repository,
            path=file.path,
            revision=revision,
            sha256=digest.sha256,
            size_bytes=digest.size_bytes,
        )
        if self.lock.get(file.place) != entry:
            self.lock = {**read_lock(self.root), file.place: entry}
            write_lock(self.root, self.lock)


def fetch(request: FetchRequest, hub: Hub | None = None) -> FetchResult:
    """Bring a model's public files into `request.root`.

    Args:
        request: model, folder, optional groups.
        hub: the hub to talk to (tests pass their own).

    Returns:
        Which files were fetched and which were there already.

    Raises:
        ConfigError: unknown model or group.
        WeightsError: files are missing or wrong afterwards; one message for all of them.
    """
    hub = hub or Hub()
    files = files_for(request.model, request.extras)
    fetcher = Fetcher(request, hub)
    present = [file for file in files if (request.root / file.place).is_file()]
    problems = {file: problem for file in present if (problem := fetcher.check_present(file))}
    wanted = [file for file in files if file not in present or (request.force and file in problems)]
    kept = tuple(file.place for file in files if file not in wanted and file not in problems)
    if request.force:
        problems = {}
    _refuse_full_disk(request.root, wanted)
    fetched: list[str] = []
    offline: str | None = None
    for number, file in enumerate(wanted):
        try:
            fetcher.bring(file)
            fetched.append(file.place)
        except HubUnreachable as error:
            offline = str(error)
            problems |= dict.fromkeys(wanted[number:], "missing")
            break
        except (HubRefused, WeightsError) as error:
            problems[file] = str(error)
    if problems:
        raise WeightsError(_explain(request, hub, problems, offline, len(files)))
    shutil.rmtree(request.root / STAGING, ignore_errors=True)
    return FetchResult(fetched=tuple(fetched), kept=kept)


def _refuse_full_disk(root: Path, wanted: Sequence[PublicFile]) -> None:
    needed = sum(file.size_bytes or file.about_bytes or 0 for file in wanted)
    folder = next(path for path in (root, *root.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WeightsError(
            f"{root}: {format_bytes(needed)} are to be fetched, {format_bytes(free)} are free; make room, or choose "
            "another folder with paths.weights=FOLDER"
        )


def _explain(
    request: FetchRequest,
    hub: Hub,
    problems: Mapping[PublicFile, str],
    offline: str | None,
    total: int,
) -> str:
    """One message for everything that is not as it should be."""
    missing = [file for file, problem in problems.items() if problem == "missing"]
    lines = [f"{request.model}: {len(problems)} of {total} files below {request.root.absolute()} are missing or wrong"]
    if offline is not None:
        size = sum(file.size_bytes or file.about_bytes or 0 for file in missing)
        lines.append(
            f"the hub cannot be reached ({offline}); without network, get these files elsewhere (together about "
            f"{format_bytes(size)}) and put each here by hand:"
        )
    for file in missing:
        lines += [
            f"  {request.root / file.place}",
            f"      {file.size_text}: {file.purpose}",
            f"      {hub.url(file)}",
        ]
        lines.append(
            f"      SHA-256 {file.sha256}" if file.sha256 else "      SHA-256 not known, noted when first seen"
        )
    for file, problem in problems.items():
        if file not in missing:
            lines += [
                f"  {request.root / file.place}",
                f"      {problem}",
                f"      {hub.url(file)}",
            ]
    if len(missing) < len(problems):
        lines.append("files that are there but wrong are replaced with force=true")
    lines.append("run the same command again to go on: verified files are kept, an interrupted download is continued")
    return "\n".join(lines)


def parse_arguments(arguments: Iterable[str]) -> FetchRequest:
    """Read `+model=hallo +metric=paper paths.weights=...` with or without plus signs.

    Raises:
        ConfigError: unknown or repeated key, nothing to fetch, value that is not `true` or `false`.
    """
    known = ("model", "metric", "parser", "paths.weights", "extras", "force")
    values: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.lstrip("+").partition("=")
        if not equals or key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}=...? " if close else ""
            raise ConfigError(f"{hint}expected one of {', '.join(f'{name}=...' for name in known)}, got {argument!r}")
        if key in values:
            raise ConfigError(f"{key} is given twice: {values[key]!r} and {value!r}; give it once")
        values[key] = value
    if not values.keys() & {"model", "metric", "parser"}:
        raise ConfigError(
            f"expected +model=NAME, one of {sorted(SOURCES)}, +metric=paper or +parser=bisenet; "
            f"example: +model={min(SOURCES)}"
        )
    if values.get("force", "false") not in ("true", "false"):
        raise ConfigError(f"expected force=true or force=false, got force={values['force']}")
    if values.get("paths.weights") == "":
        raise ConfigError("expected paths.weights=FOLDER, got an empty value")
    return FetchRequest(
        model=values.get("model", ""),
        root=Path(values.get("paths.weights", DEFAULT_ROOT)).expanduser(),
        extras=tuple(filter(None, values.get("extras", "").strip("[]").replace(" ", "").split(","))),
        force=values.get("force") == "true",
        metric=values.get("metric", ""),
        parser=values.get("parser", ""),
    )


def usage() -> str:
    """Help text with the models and optional groups."""
    groups = sorted({file.group for files in SOURCES.values() for file in files} - {"required"})
    return USAGE.format(models=", ".join(sorted(SOURCES)), root=DEFAULT_ROOT, extras=", ".join(groups))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code (0 done, 1 files missing or wrong, 2 bad command)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    quiet_hub()
    if {"-h", "--help"} & set(arguments):
        print(usage())
        return 0
    try:
        lines = _perform(parse_arguments(arguments))
    except LcpBenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; run the command again to go on where it stopped", file=sys.stderr)
        return 130
    except OSError as error:
        print(
            f"{error.filename or DEFAULT_ROOT}: {error.strerror or error}",
            file=sys.stderr,
        )
        return 1
    print("\n".join(lines))
    return 0


def _perform(request: FetchRequest) -> list[str]:
    """Fetch what is asked for; what was done, in words."""
    lines = []
    if request.model:
        done = fetch(request)
        lines.append(f"{request.model}: {len(done.fetched)} fetched, {len(done.kept)} already there, in {request.root}")
    if request.metric or request.parser:
        # Imported here: a model's files need no torch to be fetched.
        from lcp_bench.fetch_metrics import fetch_metrics, fetch_parser
        from metrics.weights import FOLDER

        for name, bring in ((request.metric, fetch_metrics), (request.parser, fetch_parser)):
            if name:
                found, where = bring(name, request.root, force=request.force), request.root / FOLDER
                lines.append(f"{name}: {len(found.fetched)} fetched, {len(found.kept)} already there, in {where}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
