"""Where a number comes from: source, versions, command and machine, without secrets and private names."""

from __future__ import annotations

import getpass
import hashlib
import importlib.metadata
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "lcp-bench", "torch", "diffusers", "transformers", "accelerate", "safetensors", "huggingface_hub", "hydra-core",
    "omegaconf", "numpy", "scipy", "pandas", "av", "opencv-python-headless", "scikit-image", "pillow", "wandb",
)  # fmt: skip
# metrics/ is not here: a score carries the hash of its own protocol, and videos do not depend on how they are scored.
SOURCE_FOLDERS = ("lcp_bench", "baselines")
# Fetching, preparing, scoring, showing and mirroring cannot change a run's numbers: editing these must not rename runs.
NO_RESULT = (
    "lcp_bench/report/",
    "lcp_bench/train/",
    "lcp_bench/tracker",
    "lcp_bench/mirror",
    "lcp_bench/launchers",
    "lcp_bench/status",
    "lcp_bench/doctor",
    "lcp_bench/dry",
    "lcp_bench/turns",
    "lcp_bench/failure",
    "lcp_bench/lock",
    "lcp_bench/score",
    "lcp_bench/sync_clips",
    "lcp_bench/plan_report_text",
    "lcp_bench/work_units",
    "lcp_bench/quality",
    "lcp_bench/metric_",
    "lcp_bench/fetch",
    "lcp_bench/prepare.py",
)

_GIT_TIMEOUT_S = 10.0
_SECRET_WORDS = frozenset(
    ("token", "secret", "password", "passwd", "passphrase", "pwd", "auth", "apikey", "accesskey", "secretkey",
     "privatekey", "credential", "credentials")
)  # fmt: skip
_ASSIGNED = re.compile(r"""([A-Za-z_][\w.\-]*)(["']?\s*[:=]\s*)("[^"]*"|'[^']*'|[^\s,{}\[\]]+)""")
_BARE_SECRET = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|sk-[\w-]{16,}|AKIA[A-Z0-9]{12,}"
    r"|wandb_v\d+_\w{16,})"
)
_URL_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_REDACTED = "<redacted>"


HARMLESS = (":(exclude)docs", ":(exclude)results", ":(exclude)*.md")
"""Tracked files that change no number; a tool that writes its own results would otherwise call its tree changed."""


def git_state(root: Path = ROOT) -> dict[str, Any]:
    """The checkout's commit and whether it was changed.

    Returns:
        `commit` (40 hex digits) and `dirty` (a tracked file differs that is not mere text or a result, or the source
        folders and `conf` hold a file that git does not know); both null with a reason where `root` is not a checkout
        or git is missing.
    """
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit[0] is None:
        inside = _git(root, "rev-parse", "--is-inside-work-tree")
        why = inside[1] if inside[0] is None else "the checkout has no commit yet"
        return {"commit": None, "commit_reason": why, "dirty": None, "dirty_reason": why}
    tracked = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *HARMLESS)
    folders = [name for name in (*SOURCE_FOLDERS, "conf") if (root / name).is_dir()]
    unknown = _git(root, "ls-files", "--others", "--exclude-standard", "--", *(folders or ["."]))
    if tracked[0] is None or unknown[0] is None:
        return {"commit": commit[0], "dirty": None, "dirty_reason": tracked[1] or unknown[1]}
    return {"commit": commit[0], "dirty": bool(tracked[0] or unknown[0])}


def _git(root: Path, *arguments: str) -> tuple[str | None, str]:
    """The command's output, or None and the reason."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False, env=environment,
        )  # fmt: skip
    except FileNotFoundError:
        return None, "git is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"git did not answer: {type(error).__name__}"
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        return None, tidy_paths(said[0]) if said else f"git ended with code {done.returncode}"
    return done.stdout.strip(), ""


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Installed versions by distribution name, and `python`; what is missing is null with a reason."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
            found[f"{name}_reason"] = "not installed"
    return found


def command_line(arguments: Sequence[str] | None = None) -> str:
    """The command as it can be typed again, secrets and private paths replaced.

    Args:
        arguments: program and arguments; default: this process's own, with the interpreter as `python`.

    >>> command_line(["python", "-m", "lcp_bench", "+model=hallo", "tracker.api_key=abc", "--password", "x"])
    "python -m lcp_bench +model=hallo 'tracker.api_key=<redacted>' --password '<redacted>'"
    """
    words = list(arguments) if arguments is not None else ["python", *sys.orig_argv[1:]]
    shown: list[str] = []
    for index, word in enumerate(words):
        previous = words[index - 1] if index else ""
        if previous.startswith("--") and "=" not in previous and _is_secret_name(previous):
            shown.append(_REDACTED)
        else:
            shown.append(tidy_paths(redact(word)))
    return shlex.join(shown)


def redact(text: str) -> str:
    """Replace what looks like a secret: values assigned to key, token, password or secret, and known key formats.

    >>> redact("WANDB_API_KEY=0123"), redact("accel.schedule.key_steps=11"), redact("{name: a, token: 'x y'}")
    ('WANDB_API_KEY=<redacted>', 'accel.schedule.key_steps=11', '{name: a, token: <redacted>}')
    """
    name, separator, _ = text.partition("=")
    if separator and re.fullmatch(r"[-+~]*[\w./@-]+", name) and _is_secret_name(name):
        return f"{name}={_REDACTED}"
    text = _ASSIGNED.sub(lambda m: m[1] + m[2] + _REDACTED if _is_secret_name(m[1]) else m[0], text)
    return _URL_LOGIN.sub(_REDACTED, _BARE_SECRET.sub(_REDACTED, text))


def _is_secret_name(name: str) -> bool:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    words = [word for word in re.split(r"[^A-Za-z0-9]+", spaced.lower()) if word]
    return bool(words) and (words[-1] == "key" or not _SECRET_WORDS.isdisjoint(words))


def tidy_paths(text: str) -> str:
    """Make the paths in `text` relative to the working directory, or to `~`, and hide the user's name.

    >>> tidy_paths("root=/home/ada/data other=/srv/x")
    'root=~/data other=/srv/x'
    """
    here, home = str(Path.cwd()), str(Path.home())
    if here != "/":
        text = re.sub(rf"(?<![\w/]){re.escape(here)}(/|(?=$|[^\w.-]))", lambda m: "" if m[1] else ".", text)
    if home != "/":
        text = re.sub(rf"(?<![\w/]){re.escape(home)}(?=$|/|[^\w.-])", "~", text)
    text = re.sub(r"(?<![\w/])/(?:home|Users)/[^/\s,;:'\"]+", "~", text)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        return text
    return text if user == "root" else re.sub(rf"(?<=/){re.escape(user)}(?=$|/)", "<user>", text)


def source_hash(root: Path = ROOT, *, exclude: Sequence[str] = NO_RESULT) -> str:
    """sha256 (hex) over names and contents of the packages' `.py` files, in the order of their names.

    Configuration files are left out: the resolved configuration is part of a run's identity itself.

    Args:
        root: the checkout.
        exclude: path prefixes, relative to `root`, of files that cannot change a result.
    """
    digest = hashlib.sha256()
    for folder in SOURCE_FOLDERS:
        names = sorted(path.relative_to(root).as_posix() for path in (root / folder).rglob("*.py"))
        for name in names:
            if not name.startswith(tuple(exclude)):
                content = (root / name).read_bytes()
                digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def host_info() -> dict[str, str]:
    """The machine without its name: `system`, `machine`, and `host_id`, equal for runs of one host and no others.

    `host_id` is 8 hex digits of the sha256 of the host's name.
    """
    host_id = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return {"system": f"{platform.system()} {platform.release()}", "machine": platform.machine(), "host_id": host_id}
