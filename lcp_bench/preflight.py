"""Check a command completely before anything happens: no folder is made, no weight is read.

Hydra composes lazily and reports in its own words, one job after another, after it has made folders. Here the words of
the command line are read first, every job of a sweep is composed and converted to a `RunConfig`, and the first thing
that is wrong becomes one `ConfigError` with the closest match and the choices.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.default_element import GroupDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lcp_bench.accel.schedule import Plan
from lcp_bench.config import RunConfig, build_strategy, to_run_config
from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import unet_topology
from lcp_bench.typed import dotted_keys, suggestion, unknown_key

CONF = Path(__file__).resolve().parent.parent / "conf"
CONFIG_NAME = "config"
EXAMPLE = "python -m lcp_bench +model=hallo +accel=lcp"
OTHER_COMMANDS = {"hydra", "train"}
"""Folders of `conf/` that are no groups of a run: Hydra's own, and those of `python -m lcp_bench.train`."""
EXAMPLE_CHOICES = {"model": "hallo", "accel": "lcp"}


@dataclass(frozen=True)
class Job:
    """One checked run of a command.

    Attributes:
        overrides: The words of the command line that make this job, without plus signs.
        config: Its configuration.
        plan: Its strategy's plan.
    """

    overrides: tuple[str, ...]
    config: RunConfig
    plan: Plan


@dataclass(frozen=True)
class Command:
    """A command line that passed all checks.

    Attributes:
        overrides: What Hydra is given: groups without plus sign, values with two (see `normalise`), globs spelt out.
        jobs: Every run, in order; more than one only in a sweep.
        sweep: Whether Hydra runs this as a sweep.
        hydra_settings: Hydra's own part of the configuration (logging, sweep folder).
    """

    overrides: tuple[str, ...]
    jobs: tuple[Job, ...]
    sweep: bool
    hydra_settings: DictConfig


@contextmanager
def hydra_app(config_path: str | None = None, config_dir: str | None = None) -> Iterator[Hydra]:
    """Hydra on this project's `conf/`, with plugins' search paths and the user's `--config-dir`.

    Args:
        config_path: Replaces `conf/`.
        config_dir: Searched after `conf/`, as Hydra's own flag.

    Raises:
        ConfigError: A folder does not exist.
    """
    version.setbase("1.3")
    for folder in (config_path, config_dir):
        if folder is not None and not os.path.isdir(folder):
            raise ConfigError(f"the configuration folder {os.path.abspath(folder)} does not exist")
    search_path = create_config_search_path(os.path.abspath(config_path) if config_path else str(CONF))
    if config_dir is not None:
        location = f"file://{os.path.abspath(config_dir)}"
        search_path.prepend(provider="command-line", path=location, anchor=SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2(task_name="lcp_bench", config_search_path=search_path)
    finally:
        GlobalHydra.instance().clear()


class Groups:
    """The config groups on the search path and what the primary config says about them."""

    def __init__(self, hydra: Hydra, words: Sequence[str], config_name: str = CONFIG_NAME) -> None:
        self._loader = hydra.config_loader
        self._config_name = config_name
        # Only this override changes which folders are searched; the others may still be wrong.
        self._search = [word for word in words if word.lstrip("+").startswith("hydra.searchpath=")]
        self.defaults = self._read_defaults()

    def options(self, group: str) -> list[str]:
        """Names of the group's configs, sorted; empty if there is no such group."""
        return sorted(self._loader.get_group_options(group, ObjectType.CONFIG, self._config_name, self._search))

    def names(self) -> list[str]:
        """The application's groups: those of the primary defaults list, then others found on the search path."""
        found = self._loader.get_group_options("", ObjectType.GROUP, self._config_name, self._search)
        extra = sorted(set(found) - set(self.defaults) - OTHER_COMMANDS)
        return [name for name in self.defaults if name != "experiment" or self.options(name)] + extra

    def required(self) -> list[str]:
        """Groups without a default choice, in order."""
        return [name for name, value in self.defaults.items() if value == "???"]

    def table(self) -> str:
        """One line per group, with plus signs, for `--help`."""
        lines = []
        for name in self.names():
            default = self.defaults.get(name)
            note = "required" if default == "???" else f"default {default}" if default else "optional"
            lines.append(f"+{name}={'|'.join(self.options(name))}  ({note})")
        return "\n".join(lines)

    def is_group(self, key: str) -> bool:
        """Whether `key=NAME` chooses a config rather than sets a value."""
        # a dot separates keys, and looking for a group reads files
        return key in self.defaults or ("." not in key and bool(self.options(key)))

    def _read_defaults(self) -> dict[str, str | None]:
        loaded = self._loader.repository.load_config(self._config_name)  # type: ignore[attr-defined]
        if loaded is None:
            raise ConfigError(f"no configuration named {self._config_name!r}; the usual one is {CONFIG_NAME!r}")
        chosen: dict[str, str | None] = {}
        for element in loaded.defaults_list:
            if isinstance(element, GroupDefault) and not element.override and element.group:
                value = element.value
                chosen[element.group] = value if isinstance(value, str) else None
        return chosen


def check_command(
    hydra: Hydra,
    words: Sequence[str],
    *,
    sweep: bool = False,
    config_name: str = CONFIG_NAME,
    fallback: Mapping[str, str] | None = None,
) -> Command:
    """Check every word and every job of a command.

    Args:
        hydra: From `hydra_app`.
        words: The overrides as typed.
        sweep: Whether `-m` was given.
        config_name: Name of the primary config.
        fallback: Choices for required groups that the command leaves out (for entry points that need no strategy).

    Raises:
        ConfigError: Anything in the command is wrong.
    """
    groups = Groups(hydra, words, config_name)
    overrides = [_parse(hydra, word) for word in words]
    lines = [normalise(groups, override) for override in overrides]
    given = {override.key_or_group for override in overrides}
    missing = [group for group in groups.required() if group not in given]
    lines += [f"{group}={fallback[group]}" for group in missing if fallback and group in fallback]
    # An experiment may choose the model and the strategy; Hydra says so if it does not.
    if "experiment" not in given:
        _check_required(groups, [group for group in missing if not fallback or group not in fallback])
    sweep_words = [override.input_line or "" for override in overrides if override.is_sweep_override()]
    parent = _compose(hydra, lines, config_name, RunMode.MULTIRUN)
    sweep = sweep or parent.hydra.mode == RunMode.MULTIRUN
    if sweep_words and not sweep:
        raise ConfigError(f"{sweep_words[0]} names several values: add -m for a sweep, or write a list as KEY=[1,2]")
    if sweep:
        jobs = [_check_sweep_job(hydra, job, config_name) for job in _expand(hydra, parent, lines)]
    else:
        jobs = [_check_job(lines, parent)]
    return Command(tuple(lines), tuple(jobs), sweep, parent.hydra)


def load_run_config(words: Sequence[str], fallback: Mapping[str, str] | None = None) -> RunConfig:
    """The configuration of one run, for entry points other than the main one and for tests.

    Args:
        words: Overrides, in either spelling.
        fallback: See `check_command`; for example `{"accel": "none"}` where the strategy does not matter.

    Raises:
        ConfigError: As `check_command`.
    """
    with hydra_app() as hydra:
        return check_command(hydra, words, fallback=fallback).jobs[0].config


def complete_words(hydra: Hydra, groups: Groups, words: Sequence[str]) -> list[str]:
    """The words as Hydra needs them, with example choices for required groups: enough to show a configuration.

    Raises:
        ConfigError: A word is wrong.
    """
    overrides = [_parse(hydra, word) for word in words]
    given = {override.key_or_group for override in overrides}
    lines = [normalise(groups, override) for override in overrides]
    return lines + [f"{name}={EXAMPLE_CHOICES[name]}" for name in groups.required() if name not in given]


def normalise(groups: Groups, override: Override) -> str:
    """Check one override and spell it as Hydra needs it.

    Groups of the primary defaults list lose their plus sign (Hydra wants it only for groups outside that list). Values
    get two: an unknown key then reaches the schema check, which knows better than Hydra what was meant, and a key that
    the YAML leaves to its default in the dataclass can be set.

    Raises:
        ConfigError: The group, its value, or a top-level key does not exist.
    """
    key, line = override.key_or_group, override.input_line or ""
    if override.is_delete() or key.startswith("hydra."):
        return line
    bare = line.lstrip("+")
    if groups.is_group(key):
        options = _check_choice(groups, override)
        if isinstance(override.value(), Glob):
            bare = f"{bare.partition('=')[0]}={','.join(options)}"
        known = key in groups.defaults or key.startswith("hydra/")
        return bare if known else f"+{bare}"
    top = key.partition(".")[0]
    fields = RunConfig.__dataclass_fields__
    if top not in fields:
        everywhere = tuple(dotted_keys(RunConfig))
        leaf = key.rpartition(".")[2]
        names = sorted({*groups.names(), *fields})
        raise unknown_key("", key if leaf == key else top, names, everywhere)
    return f"++{bare}"


def _parse(hydra: Hydra, word: str) -> Override:
    if "=" not in word and not word.startswith("~"):
        raise ConfigError(f"expected KEY=VALUE or +GROUP=NAME, got {word!r}; for example: {EXAMPLE}")
    try:
        return OverridesParser.create(config_loader=hydra.config_loader).parse_overrides([word])[0]
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cannot read {word!r}: {reason}; quote special characters, as in 'KEY=\"a,b\"'") from error


def _check_required(groups: Groups, missing: Sequence[str]) -> None:
    if not missing:
        return
    parts = [f"no {group} given; choose one of: {', '.join(groups.options(group))}" for group in missing]
    if "accel" in missing:
        parts.append("the unaccelerated run is +accel=none, a named strategy, never an absence")
    raise ConfigError("\n".join([*parts, f"for example: {EXAMPLE}"]))


def _check_choice(groups: Groups, override: Override) -> list[str]:
    """The options that a group override names, all of which exist."""
    group, value, options = override.key_or_group, override.value(), groups.options(override.key_or_group)
    choices = ", ".join(options) or "none"
    if isinstance(value, (list, dict)):
        given = override.get_value_element_as_str()
        raise ConfigError(
            f"{group} takes one name, got {given}; several in turn are a sweep: "
            f"-m +{group}={given.strip('[]{}')}. The choices: {choices}"
        )
    if isinstance(value, Glob):
        matches = value.filter(options)
        if not matches:
            raise ConfigError(f"{override.input_line} matches nothing. The choices: {choices}")
        return matches
    if override.is_interval_sweep():
        raise ConfigError(f"{group} takes names, not an interval. The choices: {choices}")
    names = list(override.sweep_iterator()) if override.is_sweep_override() else [value]
    for name in names:
        if name is None and groups.defaults.get(group, "") is None:
            continue
        text = "null" if name is None else str(name)
        if text not in options:
            raise ConfigError(f"unknown {group} {text!r}{suggestion(text, options) or '.'} The choices: {choices}")
    return [str(name) for name in names]


def _compose(hydra: Hydra, lines: Sequence[str], config_name: str, mode: RunMode) -> DictConfig:
    try:
        return hydra.compose_config(config_name, list(lines), mode)
    except (HydraException, OmegaConfBaseException) as error:
        reasons = [str(part).strip() for part in (error, error.__cause__) if part is not None and str(part).strip()]
        raise ConfigError("the configuration cannot be composed: " + " / ".join(reasons)) from error


def _expand(hydra: Hydra, parent: DictConfig, lines: Sequence[str]) -> list[list[str]]:
    """The overrides of every job of a sweep, in the order in which Hydra's own sweeper runs them."""
    params = OmegaConf.select(parent, "hydra.sweeper.params") or {}
    words = [f"{key}={value}" for key, value in params.items()] + list(lines)
    overrides = []
    for word in words:
        override = _parse(hydra, word)
        value = override.value()
        if isinstance(value, IntervalSweep):
            # An optimiser draws from the interval; both ends stand for what it may draw.
            override = _parse(hydra, f"{override.get_key_element()}={value.start},{value.end}")
        overrides.append(override)
    return [list(job) for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]


def _check_sweep_job(hydra: Hydra, lines: list[str], config_name: str) -> Job:
    try:
        return _check_job(lines, _compose(hydra, lines, config_name, RunMode.RUN))
    except ConfigError as error:
        raise ConfigError(f"in the job {' '.join(_shown(lines))}: {error}") from error


def _check_job(lines: list[str], composed: DictConfig) -> Job:
    task = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    config = to_run_config(task)
    # A plan needs neither GPU nor weights, so options that contradict each other are found here too. All models of
    # the family share this topology: 4 levels with 2 layers per down block.
    topology = unet_topology(levels=4, layers_per_block=2)
    plan = build_strategy(config).check(topology, num_steps=config.sampler.steps, eta=config.sampler.eta)
    return Job(_shown(lines), config, plan)


def _shown(lines: list[str]) -> tuple[str, ...]:
    return tuple(line.lstrip("+") for line in lines if not line.startswith("hydra"))
