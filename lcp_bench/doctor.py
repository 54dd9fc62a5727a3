"""Is this machine ready? `python -m lcp_bench.doctor [+model=NAME] [+dataset=NAME] [KEY=VALUE ...] [--json]`.

One line per thing that a run needs: pass, warn or fail, what was found, and the command that mends it. What the words
name (a model, a data set, a metric, a tracker) must be there; everything else may be missing and is a warning. Nothing
is downloaded, and no key, token or host name is shown.

Exit codes: 0 nothing failed, 1 something did, 2 the command is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from lcp_bench.config import RunConfig
from lcp_bench.errors import LcpBenchError
from lcp_bench.preflight import load_run_config
from lcp_bench.provenance import tidy_paths
from lcp_bench.status_table import print_table

State = Literal["pass", "warn", "fail"]
FALLBACK = {"model": "hallo", "accel": "none"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        state: `fail` forbids the run that the words ask for; `warn` may cost numbers, or something that was not asked.
        found: What is there.
        mend: The command, or the step, that mends it; empty for a pass.
    """

    name: str
    state: State
    found: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command names, and so must work.

    Attributes:
        config: The configuration; required groups that were left out have an example's value.
        groups: Groups that the words name.
    """

    config: RunConfig
    groups: frozenset[str]

    def needs(self, group: str) -> bool:
        """Whether the words ask for something of this group."""
        return group in self.groups


def examine(words: Sequence[str]) -> list[Check]:
    """All checks, in the order in which they are shown.

    Args:
        words: Overrides as for a run; none means everything that a default command needs.

    Raises:
        ConfigError: A word is wrong.
    """
    from lcp_bench.doctor_checks import CHECKS

    config = load_run_config(list(words), fallback=FALLBACK)
    asked = Asked(config, frozenset(word.lstrip("+").partition("=")[0] for word in words))
    return [check for function in CHECKS for check in guarded(function, asked)]


def guarded(function: Callable[[Asked], list[Check]], asked: Asked) -> list[Check]:
    """A check's lines; one that breaks is a failed line itself, and does not hide the others."""
    try:
        return function(asked)
    except Exception as error:
        name = function.__name__.removeprefix("check_").replace("_", " ")
        said = str(error) if isinstance(error, LcpBenchError) else f"{type(error).__name__}: {error}"
        return [Check(name, "fail", f"could not be looked at: {said}", "see the message")]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m lcp_bench.doctor", description="Is this machine ready?")
    parser.add_argument("words", nargs="*", help="+model=NAME, +dataset=NAME, paths.weights=DIR and so on")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args(arguments)
    try:
        checks = examine(options.words)
    except LcpBenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    counts = {state: sum(1 for check in checks if check.state == state) for state in ("pass", "warn", "fail")}
    if options.json:
        lines = [{key: tidy_paths(str(value)) for key, value in asdict(check).items()} for check in checks]
        sys.stdout.write(json.dumps({"checks": lines, "counts": counts}) + "\n")
    else:
        rows = [
            row
            for check in checks
            for row in ((check.state, check.name, _line(check.found)), ("", "", f"  -> {_line(check.mend)}"))
            if row[0] or check.mend
        ]
        print_table(("", "what", "found"), rows)
        sys.stdout.write(", ".join(f"{count} {state}" for state, count in counts.items()) + "\n")
    return 1 if counts["fail"] else 0


def _line(text: str) -> str:
    return " ".join(tidy_paths(text).split())


if __name__ == "__main__":
    sys.exit(main())
