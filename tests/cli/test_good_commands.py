"""Both spellings, sweeps, failures inside jobs, plugins' folders, and what is printed where."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from recorder import Recorder, Result

from lcp_bench import cli
from lcp_bench.config import RunConfig
from lcp_bench.errors import WeightsError
from lcp_bench.preflight import CONF

RunCli = Callable[..., Result]

STRATEGIES = sorted(path.stem for path in (CONF / "accel").glob("*.yaml"))


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_every_spelling_means_the_same(plus: str, run_cli: RunCli, recorder: Recorder, tmp_path: Path) -> None:
    result = run_cli(f"{plus}model=hallo", f"{plus}accel=lcp", f"{plus}sampler.steps=20", f"{plus}dataset=folder")
    assert (result.code, json.loads(result.out.splitlines()[-1])) == (0, {"accel": "lcp"})
    config, overrides = recorder.runs[0]
    assert (config.sampler.steps, config.dataset.name) == (20, "folder")
    assert overrides == ["model=hallo", "accel=lcp", "sampler.steps=20", "dataset=folder"]
    assert not list(tmp_path.iterdir()), "Hydra must not make folders of its own"


def test_issue_command_with_several_overrides(run_cli: RunCli, recorder: Recorder) -> None:
    assert run_cli("+model=hallo", "+accel=lcp", "sampler.steps=20", "accel.schedule.key_steps=11").code == 0
    config = recorder.runs[0][0]
    assert (config.sampler.steps, config.accel["schedule"]["key_steps"]) == (20, 11)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-m", "+model=hallo", "+accel=none,lcp"), ["none", "lcp"]),
        pytest.param(("-m", "model=hallo", "accel=none,lcp"), ["none", "lcp"], marks=pytest.mark.slow),
        (("+model=hallo", "-m", "+accel=none,fewer_steps"), ["none", "fewer_steps"]),
        pytest.param(("--multirun", "model=hallo", "+accel=glob(*)"), STRATEGIES, marks=pytest.mark.slow),
        (("-m", "+model=hallo", "+accel=glob([n*,l*], exclude=lcp_*)"), ["lcp", "none"]),
        (("+model=hallo", "+accel=none,lcp", "hydra.mode=MULTIRUN"), ["none", "lcp"]),
        (("-m", "+model=hallo", "+accel=lcp"), ["lcp"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_sweep(
    words: tuple[str, ...], expected: list[str], run_cli: RunCli, recorder: Recorder, tmp_path: Path
) -> None:
    result = run_cli(*words)
    assert result.code == 0
    assert [config.accel_name for config, _ in recorder.runs] == expected
    assert [json.loads(line)["accel"] for line in result.out.splitlines()] == expected
    assert result.err.splitlines()[-1] == f"0 of {len(expected)} jobs failed"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"], "nothing outside paths.runs"


def test_sweep_over_values(run_cli: RunCli, recorder: Recorder) -> None:
    assert run_cli("-m", "+model=hallo", "+accel=lcp", "sampler.steps=20,40", "accel.schedule.key_steps=8,11").code == 0
    seen = [(config.sampler.steps, config.accel["schedule"]["key_steps"]) for config, _ in recorder.runs]
    assert seen == [(20, 8), (20, 11), (40, 8), (40, 11)]


def test_sweep_makes_its_folder_below_paths_runs(run_cli: RunCli, tmp_path: Path) -> None:
    assert run_cli("-m", "+model=hallo", "+accel=none,lcp", "paths.runs=elsewhere").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def fail_lcp(config: RunConfig) -> None:
    """Only LightningCP's weights are broken."""
    if config.accel_name == "lcp":
        raise WeightsError("net.pth is truncated")


def test_failed_job_does_not_stop_the_sweep(run_cli: RunCli, recorder: Recorder) -> None:
    recorder.fail = fail_lcp
    result = run_cli("-m", "+model=hallo", "+accel=lcp,none")
    assert result.code == 1
    assert [config.accel_name for config, _ in recorder.runs] == ["lcp", "none"]
    *_, failed, summary = result.err.splitlines()
    assert "accel=lcp" in failed
    assert "net.pth is truncated" in failed
    assert summary == "1 of 2 jobs failed"
    assert "Traceback" not in result.err


def test_failed_run(run_cli: RunCli, recorder: Recorder) -> None:
    recorder.fail = fail_lcp
    result = run_cli("+model=hallo", "+accel=lcp")
    assert (result.code, result.out, result.err) == (1, "", "net.pth is truncated\n")


def test_failed_run_with_debug(run_cli: RunCli, recorder: Recorder) -> None:
    recorder.fail = fail_lcp
    assert "Traceback" in run_cli("+model=hallo", "+accel=lcp", "run.debug=true").err


def test_unexpected_error_has_no_traceback(run_cli: RunCli, recorder: Recorder) -> None:
    def fail(config: RunConfig) -> None:
        raise ZeroDivisionError("division by zero")

    recorder.fail = fail
    result = run_cli("+model=hallo", "+accel=lcp")
    assert result.code == 1
    assert result.err == "ZeroDivisionError: division by zero (run.debug=true shows where)\n"


@pytest.mark.parametrize("flags", [(), ("-m",)], ids=["single", "sweep"])
def test_interrupt(flags: tuple[str, ...], run_cli: RunCli, recorder: Recorder) -> None:
    def fail(config: RunConfig) -> None:
        raise KeyboardInterrupt

    recorder.fail = fail
    result = run_cli(*flags, "+model=hallo", "+accel=lcp")
    assert result.code == 130
    assert "interrupted" in result.err
    assert len(recorder.runs) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("+model=hallo", "+accel=lcp", "run.action=plan"), ["lcp"]),
        (("-m", "+model=hallo", "+accel=none,lcp", "run.action=plan", "run.format=json"), ["none", "lcp"]),
        (("+model=hallo", "+accel=lcp", "run.action=plan", "model.size=tiny"), ["lcp"]),
    ],
)
def test_plan_makes_no_folder(
    words: tuple[str, ...], expected: list[str], run_cli: RunCli, recorder: Recorder, tmp_path: Path
) -> None:
    result = run_cli(*words)
    assert result.code == 0
    assert [json.loads(line)["plan"] for line in result.out.splitlines()] == expected
    assert not recorder.runs
    assert not list(tmp_path.iterdir())


def test_summary_decides_the_exit_code(run_cli: RunCli, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    ended = types.SimpleNamespace(exit_code=1, message="1 of 2 clips failed")
    monkeypatch.setattr(sys.modules["lcp_bench.runner"], "run", lambda config, overrides: ended)
    result = run_cli("+model=hallo", "+accel=lcp")
    assert (result.code, result.err) == (1, "1 of 2 clips failed\n")


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("--help", "+model=hallo"), ("-h", "accel=none")])
def test_help(words: tuple[str, ...], run_cli: RunCli, tmp_path: Path) -> None:
    result = run_cli(*words)
    assert result.code == 0
    assert f"+accel={'|'.join(STRATEGIES)}  (required)" in result.out
    assert result.out.count("  python -m lcp_bench") == 5
    assert "guidance_scale" in result.out
    assert not list(tmp_path.iterdir())


def test_examples_of_the_help_are_valid(run_cli: RunCli) -> None:
    text = run_cli("--help").out
    for line in text.splitlines():
        if line.startswith("  python -m lcp_bench"):
            assert run_cli(*line.split()[3:]).code == 0, line


def test_show_configuration(run_cli: RunCli, recorder: Recorder, tmp_path: Path) -> None:
    result = run_cli("+model=hallo", "+accel=lcp", "--cfg", "job", "--resolve")
    assert result.code == 0
    assert "key_steps: 11" in result.out
    assert not recorder.runs
    assert not list(tmp_path.iterdir())


def test_version(run_cli: RunCli) -> None:
    from lcp_bench import __version__

    assert run_cli("--version").out == f"lcp_bench {__version__}\n"


@pytest.fixture
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A third party's folder with one more strategy."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "accel").mkdir()
    (folder / "accel" / "theirs.yaml").write_text(
        "name: theirs\n_target_: baselines.fewer_steps.FewerSteps\nsteps: 7\n"
    )
    return folder


@pytest.mark.parametrize("how", ["flag", "override"])
def test_strategy_of_a_third_party(how: str, plugin: Path, run_cli: RunCli, recorder: Recorder) -> None:
    words = ("--config-dir", str(plugin)) if how == "flag" else (f"hydra.searchpath=[file://{plugin}]",)
    assert run_cli(*words, "+model=hallo", "+accel=theirs").code == 0
    assert recorder.runs[0][0].accel == {
        "name": "theirs",
        "_target_": "baselines.fewer_steps.FewerSteps",
        "steps": 7,
    }
    assert run_cli(*words, "-m", "+model=hallo", "+accel=glob(th*)").code == 0
    assert [config.accel_name for config, _ in recorder.runs[1:]] == ["theirs"]
    wrong = run_cli(*words, "+model=hallo", "+accel=their")
    assert wrong.code == 2
    assert "did you mean 'theirs'?" in wrong.err
    assert ", ".join(sorted([*STRATEGIES, "theirs"])) in wrong.err
    assert "theirs" in run_cli(*words, "--help").out


def test_what_launchers_pickle() -> None:
    assert pickle.loads(pickle.dumps(cli.job)) is cli.job
    outcome = cli.JobOutcome(1, ("accel=lcp",), "no")
    assert pickle.loads(pickle.dumps(outcome)) == outcome
    assert cli.job.__module__ == "lcp_bench.cli"


def test_json_line_refuses_nan(capsys: pytest.CaptureFixture[str]) -> None:
    cli.emit_json({"speedup": 2.5, "name": "é"})
    assert capsys.readouterr().out == '{"speedup": 2.5, "name": "é"}\n'
    with pytest.raises(ValueError, match="JSON"):
        cli.emit_json({"speedup": float("nan")})
