"""Every configuration file on disk composes, is valid, and says everything that the schema knows."""

from __future__ import annotations

import ast
import itertools
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lcp_bench.config import RunConfig, baseline_of, build_strategy
from lcp_bench.preflight import CONF, OTHER_COMMANDS, Groups, hydra_app, load_run_config
from lcp_bench.typed import dotted_keys


def options(group: str) -> list[str]:
    """Configs of a group, from the folder itself."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in OTHER_COMMANDS)
COMBINATIONS = list(itertools.product(options("model"), options("accel"), options("dataset")))


def in_turn() -> set[tuple[str, str, str]]:
    """Every strategy, and every data set, with one model, all models in turn: what the default suite checks."""
    models = itertools.cycle(options("model"))
    pairs = [(accel, "demo") for accel in options("accel")] + [("none", dataset) for dataset in options("dataset")]
    return {(model, *pair) for model, pair in zip(models, pairs, strict=False)}


FIRST = in_turn()
OTHERS = [
    (group, name)
    for group in GROUPS
    if group not in ("model", "accel", "dataset", "experiment")  # experiments are sweeps, see test_sweeps.py
    for name in options(group)
]


def test_the_folders_hold_the_expected_groups() -> None:
    assert set(GROUPS) >= {"model", "accel", "dataset", "measure", "tracker", "paths"}
    assert set(options("accel")) >= {"none", "fewer_steps", "lcp"}
    for place, group in enumerate(("model", "accel", "dataset")):
        assert {words[place] for words in FIRST} == set(options(group))


@pytest.mark.parametrize(("model", "accel", "dataset"), sorted(FIRST))
def test_every_choice_is_valid(model: str, accel: str, dataset: str) -> None:
    check_combination(model, accel, dataset)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", options("model"))
def test_every_combination_is_valid(chosen: str) -> None:
    for model, accel, dataset in COMBINATIONS:
        if model == chosen:
            check_combination(model, accel, dataset)


def check_combination(model: str, accel: str, dataset: str) -> None:
    """The three choices compose, and what they chose is in the configuration."""
    config = load_run_config([f"+model={model}", f"+accel={accel}", f"+dataset={dataset}"])
    assert isinstance(config, RunConfig)
    assert (config.model.name, config.accel_name) == (model, accel)
    assert config.sampler.steps == config.model.steps
    json.dumps(asdict(config), allow_nan=False)


@pytest.mark.parametrize(("group", "name"), OTHERS)
def test_other_groups_are_valid(group: str, name: str) -> None:
    load_run_config(["model=hallo", "accel=none", f"{group}={name}"])


@pytest.mark.parametrize("accel", options("accel"))
def test_strategy_is_rebuilt_from_the_plain_data(accel: str) -> None:
    config = load_run_config(["model=hallo", f"accel={accel}"])
    strategy = build_strategy(config)
    module, _, name = config.accel["_target_"].rpartition(".")
    assert (type(strategy).__module__, type(strategy).__qualname__) == (module, name)
    fields = asdict(strategy.config)
    assert {key: value for key, value in config.accel.items() if key not in ("name", "_target_")} == fields
    # The record stores JSON, in which tuples are lists; the strategy read back from it is the same.
    stored = json.loads(json.dumps(config.accel))
    again = build_strategy(RunConfig(**{**vars_of(config), "accel": stored}))
    assert again.config == strategy.config


def vars_of(config: RunConfig) -> dict[str, Any]:
    """Fields of a slotted dataclass, unconverted."""
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_lcp_preset_is_the_published_operating_point() -> None:
    config = load_run_config(["model=hallo", "accel=lcp"])
    assert config.accel["schedule"]["key_steps"] == 11
    assert config.sampler.steps == 40
    assert len(build_strategy(config).plan(40).key_steps) == 11


def test_list_of_key_steps_reaches_the_strategy() -> None:
    config = load_run_config(["model=hallo", "accel=lcp", "accel.schedule.key_steps=[0,3,20]"])
    assert build_strategy(config).plan(40).key_steps == (0, 3, 20)


def test_option_left_out_of_the_yaml_can_be_set() -> None:
    config = load_run_config(["model=hallo", "accel=lcp", "accel.schedule.max_followers=30"])
    assert config.accel["schedule"]["max_followers"] == 30


def test_baseline_differs_in_the_strategy_only() -> None:
    config = load_run_config(["model=hallo", "accel=lcp"])
    baseline = baseline_of(config)
    assert baseline == load_run_config(["model=hallo", "accel=none"])


def test_size_decides_the_values_that_depend_on_it() -> None:
    full = load_run_config(["model=hallo", "accel=none"]).model
    tiny = load_run_config(["model=hallo", "accel=none", "model.size=tiny", "model.weights=seeded"]).model
    assert (full.image_size, full.dtype) == (512, "float16")
    assert (tiny.image_size, tiny.dtype) == (64, "float32")


def test_image_sizes_are_those_of_the_model_code(repository: Path) -> None:
    # Read from the source: importing the model costs ten seconds of torch and transformers.
    tree = ast.parse((repository / "lcp_bench" / "models" / "hallo.py").read_text())
    sizes = {
        ast.literal_eval(name): ast.literal_eval(keyword.value)
        for statement in tree.body
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "SIZES"
        for name, call in zip(statement.value.keys, statement.value.values, strict=True)
        for keyword in call.keywords
        if keyword.arg == "image_size"
    }
    assert load_run_config(["model=hallo", "accel=none"]).model.presets.image_size == sizes


def test_help_shows_every_key_of_the_schema() -> None:
    words = [[f"model={model}", "accel=lcp"] for model in ("hallo", "memo")]  # memo has a preset of its own
    with hydra_app() as hydra:
        composed = [hydra.config_loader.load_configuration("config", each, hydra_run_mode()) for each in words]
    missing = [
        key
        for key in dotted_keys(RunConfig)
        if key != "accel" and all(OmegaConf.select(each, key, default=...) is ... for each in composed)
    ]
    assert not missing


def hydra_run_mode() -> Any:
    """Hydra's mode for one run."""
    from hydra.types import RunMode

    return RunMode.RUN


def test_every_value_file_says_why() -> None:
    silent = [path for path in CONF.rglob("*.yaml") if not path.read_text().startswith("#")]
    assert not silent, f"these files lack an explaining comment: {silent}"


def test_group_table_has_plus_signs() -> None:
    with hydra_app() as hydra:
        lines = Groups(hydra, []).table().splitlines()
    assert lines[0].startswith("+model=echomimic|")
    assert all(line.startswith("+") for line in lines)
    assert {line[1:].partition("=")[0] for line in lines} == set(GROUPS)


def test_checking_a_command_does_not_import_torch(repository: Path) -> None:
    code = (
        "import sys; from lcp_bench import cli; from lcp_bench.preflight import load_run_config as load;"
        "[load(['model=hallo', 'accel=' + name]) for name in sys.argv[1:]]; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *options("accel")], cwd=repository, timeout=60, check=False)
    assert done.returncode == 0
