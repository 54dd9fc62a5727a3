"""The command line: read it, check it, run it, say how it ended.

Hydra's own `hydra.main` is not used: it throws away the results of a sweep, so failed jobs could not be counted, and it
answers a wrong command with a traceback after making folders. The same Hydra object is driven directly instead: first
it checks the command (`preflight`), then it runs it through Hydra's launchers and sweepers.

Exit codes: 0 all done, 1 something failed, 2 the command is wrong and nothing was touched, 130 interrupted, 143
terminated.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Any, NoReturn

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lcp_bench import __version__
from lcp_bench.config import RunConfig, to_run_config
from lcp_bench.errors import ConfigError, LcpBenchError
from lcp_bench.launch import JobOutcome, launched, require_one_parallel_run
from lcp_bench.launchers import require_usable, sweep
from lcp_bench.measure.clock import pause
from lcp_bench.preflight import CONFIG_NAME, Command, Groups, Job, check_command, complete_words, hydra_app
from lcp_bench.turns import CHEAP, NOT_TRIED, in_turn, is_in_turn
from lcp_bench.typed import suggestion

log = logging.getLogger(__name__)

INTERRUPTED = 130
TERMINATED = 143


class Terminated(KeyboardInterrupt):
    """SIGTERM came: a batch system's preemption, `kill`, a shutdown."""


def emit_json(payload: Mapping[str, Any]) -> None:
    """Print one JSON object on one line of stdout; the last thing that a run prints.

    Raises:
        ValueError: `payload` holds NaN or infinity, which JSON has no words for.
    """
    sys.stdout.write(json.dumps(payload, allow_nan=False, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: The words after the program's name; default those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = any(re.fullmatch(r"\+*run\.debug=(true|yes|on|1)", word, re.IGNORECASE) for word in words)
    try:
        with _stdout_of_the_first(), _orderly_end():
            return _dispatch(words)
    except Terminated:
        _say("terminated; finished clips are kept: give the same command again to go on")
        return TERMINATED
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        _say(_explain(error))
        return _exit_code(error)


def job(config: DictConfig) -> JobOutcome:
    """The task that Hydra's launchers run, here or in another process.

    It never raises, because a sweep must go on when one of its jobs fails.
    """
    overrides = tuple(word.lstrip("+") for word in HydraConfig.get().overrides.task)
    try:
        return perform(to_run_config(config), overrides)
    except Exception as error:
        if OmegaConf.select(config, "run.debug"):
            log.exception("job %s", " ".join(overrides))
        elif HydraConfig.get().mode == RunMode.MULTIRUN:
            log.error("job %s: %s", " ".join(overrides), _explain(error))
        return JobOutcome(_exit_code(error), overrides, _explain(error))


def perform(config: RunConfig, overrides: Sequence[str]) -> JobOutcome:
    """Do what `run.action` says.

    The modules that do the work are imported here, so that a wrong command is answered without waiting for torch.
    """
    if config.run.action == "plan":
        from lcp_bench.plan_report import report

        report(config)
        return JobOutcome(0, tuple(overrides))
    from lcp_bench.runner import run

    summary = run(config, list(overrides))
    return JobOutcome(summary.exit_code, tuple(overrides), summary.message)


def _dispatch(words: list[str]) -> int:
    if "--version" in words:
        sys.stdout.write(f"lcp_bench {__version__}\n")
        return 0
    parser = _parser()
    args = parser.parse_intermixed_args(words)
    if args.experimental_rerun:
        raise ConfigError("--experimental-rerun unpickles a file and is not supported; give the command again instead")
    if args.multirun and (args.cfg or args.info):
        raise ConfigError("--cfg and --info show one configuration; leave out -m")
    config_name = args.config_name or CONFIG_NAME
    with hydra_app(args.config_path, args.config_dir) as hydra:
        if args.help or args.hydra_help or args.shell_completion:
            _inform(hydra, parser, args, config_name)
            return 0
        command = check_command(hydra, args.overrides, sweep=args.multirun, config_name=config_name)
        runs = [(each.config.accel_name, each.plan) for each in command.jobs if each.config.run.action == "run"]
        require_one_parallel_run(launched(), runs, sweep=command.sweep)
        require_usable(command.hydra_settings, runs, sweep=command.sweep)
        if args.cfg or args.info:
            if command.sweep:
                raise ConfigError(
                    f"--cfg and --info show one configuration, and this experiment sweeps {len(command.jobs)}; "
                    "run.dry=true lists its runs"
                )
            args.overrides = list(command.overrides)
            _inform(hydra, parser, args, config_name)
            return 0
        return _execute(hydra, command, config_name)


def _execute(hydra: Hydra, command: Command, config_name: str) -> int:
    """Run all jobs of a checked command."""
    options = [current.config.run for current in command.jobs]
    if all(option.action == "plan" or option.dry for option in options):
        configure_log(command.hydra_settings.job_logging, command.hydra_settings.verbose)
        if command.sweep and all(option.action == "run" for option in options):
            from lcp_bench.dry import dry_sweep

            return dry_sweep(command.jobs)
        return _finish([_run_here(current) for current in command.jobs], command)
    overrides = list(command.overrides)
    if launched().rank:
        # Without Hydra's launcher, which would write its files once more. Warnings are those of the first process too.
        configure_log(command.hydra_settings.job_logging, command.hydra_settings.verbose)
        logging.disable(logging.WARNING)
        return _finish([_run_here(current) for current in command.jobs], command)
    if not command.sweep:
        return _finish([hydra.run(config_name, job, overrides).return_value], command)
    if is_in_turn(command.hydra_settings):
        configure_log(command.hydra_settings.job_logging, command.hydra_settings.verbose)
        return _finish(in_turn(command, _run_here), command)
    return _finish(sweep(hydra, config_name, job, overrides), command)


def _run_here(current: Job) -> JobOutcome:
    """A job in this process, without Hydra's launcher; it never raises."""
    try:
        return perform(current.config, current.overrides)
    except Exception as error:
        if current.config.run.debug:
            traceback.print_exc()
        return JobOutcome(_exit_code(error), current.overrides, _explain(error), not isinstance(error, CHEAP))


def _finish(outcomes: Sequence[JobOutcome], command: Command) -> int:
    """Report failures on stderr; the exit code of the command."""
    failed = [(index, outcome) for index, outcome in enumerate(outcomes) if outcome.exit_code]
    if not command.sweep:
        for _, outcome in failed:
            if outcome.message:
                _say(outcome.message)
        return outcomes[0].exit_code
    for index, outcome in failed:
        _say(f"failed: job {index} ({' '.join(outcome.overrides)}): {outcome.message}")
    untried = sum(outcome.message.startswith(NOT_TRIED) for _, outcome in failed)
    _say(f"{len(failed)} of {len(outcomes)} jobs failed" + (f", {untried} of them were not tried" if untried else ""))
    return 1 if failed else 0


def _inform(hydra: Hydra, parser: argparse.ArgumentParser, args: argparse.Namespace, config_name: str) -> None:
    """Hydra's own pages: help, configuration, plugins, completion."""
    if args.help:
        groups = Groups(hydra, args.overrides, config_name)
        OmegaConf.register_new_resolver("lcp_bench.groups", groups.table, replace=True)
        args.overrides = complete_words(hydra, groups, args.overrides)
        hydra.app_help(config_name=config_name, args_parser=parser, args=args)
    elif args.hydra_help:
        hydra.hydra_help(config_name=config_name, args_parser=parser, args=args)
    elif args.shell_completion:
        hydra.shell_completion(config_name=config_name, overrides=args.overrides)
    elif args.cfg:
        hydra.show_cfg(config_name, args.overrides, args.cfg, args.package, args.resolve)
    else:
        hydra.show_info(args.info, config_name=config_name, overrides=args.overrides)


def _parser() -> argparse.ArgumentParser:
    """Hydra's flags, with errors as `ConfigError` and this project's version."""
    parser = get_args_parser()
    parser.prog = "python -m lcp_bench"
    flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]

    def refuse(message: str) -> NoReturn:
        wrong = next((word for word in message.split() if word.startswith("-")), "")
        raise ConfigError(f"{message}{suggestion(wrong, flags)} (flags: {', '.join(flags)})")

    parser.error = refuse  # type: ignore[method-assign]
    return parser


def _explain(error: BaseException) -> str:
    if isinstance(error, LcpBenchError):
        return str(error)
    return f"{type(error).__name__}: {error} (run.debug=true shows where)"


def _exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, LcpBenchError) else 1


@contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: locks are freed and half-written files removed on the way out.

    Not where torchrun started several processes: one of them may be waiting for the others, deaf to everything but the
    signal's default.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or launched().processes > 1 or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _stdout_of_the_first() -> Iterator[None]:
    """Of several processes that make one run, the first alone has a stdout."""
    if launched().rank == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def _say(message: str) -> None:
    """One message on stderr."""
    rank = launched().rank
    if rank:
        # What is wrong for all processes of a run is said by the first; torchrun then ends this one while it waits.
        pause(3.0)
        message = f"rank {rank}: {message}"
    sys.stderr.write(message.rstrip() + "\n")
    sys.stderr.flush()
