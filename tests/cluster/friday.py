"""A sweep on Slurm that is disturbed again and again and given again, beside one that nobody disturbs.

    python tests/cluster/slurm.py up /tmp/slurm           # Debian: needs root and the packages that it names
    SLURM_CONF=/tmp/slurm/slurm.conf python tests/cluster/friday.py /tmp/friday --runs 36 --kills 20

Both sweeps make the same runs: `mini` on a drawn clip of 0.64 s, 4 steps, other strategies and seeds. One goes through
one process of this machine. The other goes through Slurm, and at random times one of its jobs is cancelled, killed
(SIGKILL), or preempted (SIGUSR2, which Slurm sends before it takes a node away), or the sweep's own process is killed.
Whenever the sweep has ended, the same command is given again, until it says that nothing failed.

Then everything that does not depend on how fast the machine was must be equal: the set of runs, every clip's row, the
bytes of every video, every record, and the table. What may differ, and is left out, is in `MEASURED`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
STRATEGIES = ("none", "lcp", "deepcache", "faster_diffusion")
WORDS = (
    "+model=mini", "model.weights=seeded", "sampler.steps=4", "model.presets.key_steps=2", "+dataset=synth_hdtf",
    "dataset.synthetic.people=1", "dataset.synthetic.seconds=0.64", "dataset.root=people", "run.threads=1",
    "run.device=cpu", "measure.warmup_clips=0", "measure.bootstrap=100",
)  # fmt: skip
SLURM = (
    "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=2", "hydra.launcher.timeout_min=20", "hydra.launcher.array_parallelism=2",
)  # fmt: skip
KINDS = ("scancel", "kill -9", "preempt", "kill -9")
"""What is done to it, in turn; `kill -9 of the sweep` is known too, and leaves its jobs in the queue."""
MEASURED = {
    "stages_s", "wall_s", "memory", "timings", "speed", "wall_seconds", "created_utc", "pair", "device", "git",
    "overrides", "command_line", "paths",
}  # fmt: skip
"""Keys of rows and records that say how fast the machine was, when it was, and how it was asked."""


TIMED = {"denoise_s", "seconds_per_clip", "speedup"}
"""Metrics of the paper's tables that say how fast the machine was."""


DONE = "disturbances.txt"


@dataclass
class Story:
    """What was done and what came of it.

    Attributes:
        folder: Everything is in it.
        runs: How many runs the sweep has: a multiple of the number of strategies, or fewer.
        kinds: What is done to it, in turn.
        done: The disturbances that hit something: what, and the job.
        issued: How often the command was given.
        answers: The last line of each time.
    """

    folder: Path
    runs: int
    kinds: Sequence[str] = KINDS
    done: list[str] = field(default_factory=list)
    issued: int = 0
    answers: list[str] = field(default_factory=list)

    def command(self, runs: str, *more: str) -> list[str]:
        """The sweep's command."""
        seeds = range(-(-self.runs // len(STRATEGIES)))
        sweep = [f"+accel={','.join(STRATEGIES[: self.runs])}", f"sampler.seed={','.join(map(str, seeds))}"]
        return [sys.executable, "-m", "lcp_bench", "-m", *WORDS, *more, *sweep, f"paths.runs={runs}"]


def tell(story: Story, kills: int, *, seed: int = 0, longest_s: float = 30.0, checkout: Path = REPOSITORY) -> Story:
    """Make both sweeps.

    Args:
        story: What is wanted; its folder is there, and jobs can write it. It is filled in and returned. A folder of
            a story that was broken off is gone on with.
        kills: How many disturbances.
        seed: Of the random times and victims.
        longest_s: Between two disturbances.
        checkout: The code.

    Raises:
        RuntimeError: A sweep did not end as it should.
    """
    folder = story.folder
    # A copy: a run's name holds the code's hash, so an edit between two commands would part them.
    for name in ("lcp_bench", "baselines", "metrics", "conf"):
        if not (folder / name).exists():
            shutil.copytree(checkout / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    if (folder / DONE).exists():
        story.done = (folder / DONE).read_text().splitlines()
        kills -= len(story.done)
    whole = subprocess.run(story.command("whole"), cwd=folder, env=_environment(), capture_output=True, text=True)
    if whole.returncode:
        raise RuntimeError(f"the undisturbed sweep failed:\n{whole.stderr[-3000:]}")
    dice = random.Random(seed)
    for _ in range(max(kills, 0) + 5):
        kills -= _issue(story, dice, kills, longest_s)
        if kills <= 0 and story.answers[-1].startswith("0 of "):
            return story
    raise RuntimeError(f"given {story.issued} times, it still says: {story.answers[-1]}")


def _issue(story: Story, dice: random.Random, kills: int, longest_s: float) -> int:
    """Give the command once, and disturb it up to `kills` times while it runs; returns how often it was disturbed."""
    log = story.folder / f"issue{len(list(story.folder.glob('issue*.log')))}.log"
    story.issued += 1
    with log.open("w") as file:
        sweep = subprocess.Popen(
            story.command("disturbed", *SLURM), cwd=story.folder, env=_environment(), stdout=file, stderr=file
        )
        done = 0
        while sweep.poll() is None:
            if done < kills:
                done += _disturb(story, dice, sweep, dice.uniform(0.0, longest_s))
            else:
                sweep.wait()
    lines = log.read_text().splitlines()
    story.answers.append(lines[-1] if lines else "nothing")
    return done


def _disturb(story: Story, dice: random.Random, sweep: subprocess.Popen[bytes], after_s: float) -> int:
    """Wait until a job runs, wait a little more, and do the next thing to it; returns whether it hit something."""
    while not _running():
        if sweep.poll() is not None:
            return 0
        time.sleep(0.2)
    end = time.monotonic() + after_s
    while time.monotonic() < end:
        if sweep.poll() is not None:
            return 0
        time.sleep(0.05)
    running = _running()
    if not running:
        return 0
    job, raw = dice.choice(running)
    kind = story.kinds[len(story.done) % len(story.kinds)]
    if kind in ("scancel", "preempt"):
        signals = ["--signal=USR2"] if kind == "preempt" else []
        if subprocess.run(["scancel", *signals, job], capture_output=True).returncode:
            return 0  # it is just starting or ending
    else:
        victims = [sweep.pid] if "sweep" in kind else _processes(raw)
        if not victims:
            return 0
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
    story.done.append(f"{kind}: job {job} after {after_s:.1f} s")
    (story.folder / DONE).write_text("\n".join(story.done) + "\n")
    # Whoever was hit is given the time to be gone, so that the next thing hits another.
    time.sleep(1.0)
    return 1


def _running() -> list[tuple[str, str]]:
    """Running jobs: the name as the user sees it, and Slurm's own number."""
    done = subprocess.run(
        ["squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i %A"], capture_output=True, text=True
    )
    return sorted((line.split()[0], line.split()[1]) for line in done.stdout.splitlines())


def _processes(raw: str) -> list[int]:
    """The processes of a job's Python."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if f"SLURM_JOB_ID={raw}\0".encode() in environment and b"submitit.core._submit" in command:
            found += [int(folder.name)] if b"srun" not in command.split(b"\0")[0] else []
    return sorted(found)


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def differences(first: Path, second: Path) -> list[str]:
    """What differs between two folders of runs, beyond what was measured; empty if nothing does."""
    ids = [{path.parent.name for path in folder.glob("*/record.json")} for folder in (first, second)]
    if ids[0] != ids[1]:
        return [f"runs: only in {first.name}: {ids[0] - ids[1]}; only in {second.name}: {ids[1] - ids[0]}"]
    found = []
    for name in sorted(ids[0]):
        left, right = (dict(_contents(folder / name)) for folder in (first, second))
        found += [f"{name}/{key}" for key in sorted({*left, *right}) if left.get(key) != right.get(key)]
    return found


def table(folder: Path) -> str:
    """One line per run and clip, without what was measured."""
    lines = []
    for path in sorted(folder.glob("*/record.json")):
        record = json.loads(path.read_text())
        for row in _rows(path.parent):
            run = (record["accel"]["name"], record["config"]["sampler"]["seed"], record["status"], record["quality"])
            cells = (*run, row["clip"], row["status"], row["frames"], row["frames_sha256"], path.parent.name)
            lines.append("\t".join(json.dumps(cell, sort_keys=True) for cell in cells))
    return "\n".join(sorted(lines)) + "\n"


def paper_tables(folder: Path, out: Path) -> dict[str, list[str]]:
    """The CSV files of `python -m lcp_bench.report tables`: their lines, but for those of measured speed."""
    command = [sys.executable, "-m", "lcp_bench.report", "tables", "--runs", str(folder), "--out", str(out)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    tables = {}
    for path in sorted(out.glob("*.csv")):
        with path.open(newline="") as file:
            lines = [line for line in csv.DictReader(file) if line["metric"] not in TIMED]
        tables[path.name] = [json.dumps(line) for line in lines]
    return tables


def _contents(folder: Path) -> Iterator[tuple[str, Any]]:
    record = json.loads((folder / "record.json").read_text())
    yield from ((f"record.{key}", _without_measured(value)) for key, value in record.items() if key not in MEASURED)
    raw = (folder / "rows.jsonl").read_text().splitlines()
    yield "number of rows", len(raw)
    for row in _rows(folder):
        yield from ((f"{row['clip']}.{key}", value) for key, value in row.items() if key not in MEASURED)
    for path in sorted((folder / "clips").iterdir()):
        yield path.name, hashlib.sha256(path.read_bytes()).hexdigest()


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def _without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_measured(inner) for key, inner in value.items() if key not in MEASURED}
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=36)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest-s", type=float, default=30.0)
    parser.add_argument("--checkout", type=Path, default=REPOSITORY)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    story = Story(given.folder.resolve(), given.runs, given.kinds.split(","))
    tell(story, given.kills, seed=given.seed, longest_s=given.longest_s, checkout=given.checkout)
    whole, disturbed = given.folder / "whole", given.folder / "disturbed"
    differing = differences(whole, disturbed)
    tables = [paper_tables(runs, given.folder / f"tables_{runs.name}") for runs in (whole, disturbed)]
    equal = table(whole) == table(disturbed) and tables[0] == tables[1]
    number = len(list(disturbed.glob("*/record.json")))
    report = {"runs": number, "issued": story.issued, "disturbances": story.done, "answers": story.answers,
              "differences": differing, "tables_equal": equal}  # fmt: skip
    print(json.dumps(report, indent=1))
    return 0 if equal and not differing and number == given.runs else 1


if __name__ == "__main__":
    sys.exit(main())
