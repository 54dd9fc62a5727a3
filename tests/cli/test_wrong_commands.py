"""A wrong command: one message with the closest match and the choices, exit code 2, nothing made."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from recorder import Recorder, Result

from lcp_bench.preflight import CONF

GOOD = ("+model=hallo", "+accel=lcp")
STRATEGIES = ", ".join(sorted(path.stem for path in (CONF / "accel").glob("*.yaml")))

# Words, then what the message must contain.
WRONG: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((), ("no model given", "hallo", "python -m lcp_bench +model=hallo +accel=lcp")),
    (("+accel=lcp",), ("no model given", "hallo", "for example")),
    (("+model=hallo",), ("no accel given", STRATEGIES, "+accel=none", "never an absence")),
    (("+modle=hallo",), ("'modle'", "did you mean 'model'?", "sampler")),
    (("+modle=hallo", "+accel=lcp"), ("'modle'", "did you mean 'model'?")),
    (("modle.size=tiny", *GOOD), ("'modle'", "did you mean 'model'?")),
    (("+model=halo", "+accel=lcp"), ("unknown model 'halo'", "did you mean 'hallo'?")),
    (("+model=hallo", "+accel=lpc"), ("unknown accel 'lpc'", "did you mean 'lcp'?", STRATEGIES)),
    (("+model=hallo", "+accel=null"), ("unknown accel 'null'", STRATEGIES)),
    (("+model=hallo", "+accel=[none,lcp]"), ("one name", "[none,lcp]", "-m +accel=none,lcp")),
    (("+model=hallo", "+accel=none,lcp"), ("+accel=none,lcp", "add -m")),
    ((*GOOD, "sampler.stepz=2"), ("'sampler.stepz'", "did you mean 'sampler.steps'?", "eta, guidance_scale, seed")),
    ((*GOOD, "+sampler.stepz=2"), ("'sampler.stepz'", "did you mean 'sampler.steps'?")),
    ((*GOOD, "++sampler.stepz=2"), ("'sampler.stepz'", "did you mean 'sampler.steps'?")),
    ((*GOOD, "steps=3"), ("'steps'", "did you mean 'model.steps' or 'sampler.steps'?")),
    ((*GOOD, "+x=1"), ("unknown group or key 'x'", "sampler")),
    ((*GOOD, "sampler.steps=abc"), ("sampler.steps must be an integer", "'abc'")),
    ((*GOOD, "sampler.steps=2.5"), ("sampler.steps must be an integer", "2.5")),
    ((*GOOD, "sampler.steps=true"), ("sampler.steps must be an integer", "True")),
    ((*GOOD, "sampler.steps=0"), ("sampler.steps must be in 1..1000", "0")),
    ((*GOOD, "sampler.steps=null"), ("sampler.steps must be an integer", "None")),
    ((*GOOD, "sampler=3"), ("sampler must be a group of keys", "3")),
    ((*GOOD, "~sampler.steps"), ("sampler.steps is missing",)),
    ((*GOOD, "sampler.guidance_scale=nan"), ("sampler.guidance_scale must be a finite number",)),
    ((*GOOD, "model.size=tny"), ("one of full, tiny", "did you mean 'tiny'?")),
    ((*GOOD, "model.motion_scale=[1,2]"), ("model.motion_scale must be a list of 3",)),
    ((*GOOD, "model.motion_scale=[1,2,x]"), ("model.motion_scale[2] must be a finite number", "'x'")),
    ((*GOOD, "model.image_size=100"), ("model.image_size must be a multiple of 64", "100")),
    ((*GOOD, "model.size=tiny"), ("no public checkpoint", "model.weights=seeded")),
    ((*GOOD, "run.device=gpu"), ("one of auto, cpu, cuda", "'gpu'")),
    ((*GOOD, "dataset.max_seconds=0"), ("dataset.max_seconds must be more than 0",)),
    ((*GOOD, "accel.schedule.key_stepz=3"), ("'accel.schedule.key_steps'", "placement")),
    ((*GOOD, "accel.parallell=false"), ("did you mean 'accel.parallel'?",)),
    ((*GOOD, "accel.parallel=3"), ("accel.parallel must be true or false",)),
    ((*GOOD, "accel.schedule.key_steps=41"), ("in 1..40", "+accel=none")),
    ((*GOOD, "accel.schedule.placement=unifrm"), ("uniform",)),
    ((*GOOD, "accel.site=up.9.9"), ("up.9.9", "up.3.2")),
    ((*GOOD, "accel._target_=lcp_bench.accel.nothing.Here"), ("lcp_bench.accel.nothing.Here", "cannot be imported")),
    ((*GOOD, "accel._target_=pathlib.Path"), ("must be a strategy class",)),
    ((*GOOD, "sampler.eta=0.5"), ("sampler.eta=0.5", "use sampler.eta=0")),
    (("+model=hallo", "+accel=fewer_steps", "accel.steps=41"), ("accel.steps=41", "sampler.steps=40")),
    (("+model=hallo", "+accel=none", "accel.steps=3"), ("accel=none", "'accel.steps'", "none")),
    ((*GOOD, "measure.pair=lcp"), ("measure.pair must be one of none",)),
    ((*GOOD, "+experiment=foo"), ("unknown experiment 'foo'",)),
    ((*GOOD, "hydra/launcher=jobllib"), ("did you mean 'joblib'?", "basic")),
    ((*GOOD, "hydra.run.dri=x"), ("hydra.run.dri",)),
    ((*GOOD, "paths.runs="), ("paths.runs must be a folder",)),
    ((*GOOD, "sampler"), ("KEY=VALUE", "'sampler'")),
    ((*GOOD, "a(=3"), ("'a(=3'",)),
    ((*GOOD, "--multirn"), ("--multirn", "did you mean '--multirun'?")),
    ((*GOOD, "--config-dir", "nowhere"), ("nowhere", "does not exist")),
    ((*GOOD, "--config-name", "nowhere"), ("nowhere", "'config'")),
    ((*GOOD, "-m", "--cfg", "job"), ("leave out -m",)),
    (("+experiment=main_mini", "--cfg", "job"), ("this experiment sweeps 8", "run.dry=true")),
    ((*GOOD, "--experimental-rerun", "x.pkl"), ("not supported",)),
    (("-m", "+model=hallo", "+accel=none,lpc"), ("unknown accel 'lpc'", "did you mean 'lcp'?")),
    (("-m", "+model=hallo", "+accel=glob(z*)"), ("matches nothing", STRATEGIES)),
    (("-m", "+model=hallo", "+accel=interval(0,1)"), ("not an interval",)),
    (("-m", *GOOD, "sampler.steps=20,0"), ("model=hallo accel=lcp sampler.steps=0", "in 1..1000")),
    (("-m", "+model=hallo", "+accel=none,lcp", "accel.hold=noise"), ("in the job", "accel=none", "'accel.hold'")),
]


@pytest.mark.parametrize(("words", "parts"), WRONG, ids=lambda value: " ".join(value)[:60] or "nothing")
def test_wrong_command(
    words: tuple[str, ...],
    parts: tuple[str, ...],
    run_cli: Callable[..., Result],
    recorder: Recorder,
    tmp_path: Path,
) -> None:
    result = run_cli(*words)
    assert result.code == 2
    for part in parts:
        assert part in result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert not recorder.runs
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(run_cli: Callable[..., Result]) -> None:
    result = run_cli(*GOOD, "sampler.stepz=2", "run.debug=true")
    assert result.code == 2
    assert "Traceback" in result.err
    assert result.err.splitlines()[-1].startswith("unknown key 'sampler.stepz'")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("+model=hallo", "+accel=lcp", "sampler.stepz=2"), "'sampler.steps'"),
        (("-m", "+model=hallo", "+accel=none,lpc"), "did you mean 'lcp'?"),
        ((), "no model given; choose one of: echomimic, echomimic_acc, hallo, memo, mini"),
    ],
)
def test_wrong_command_in_its_own_process(words: tuple[str, ...], part: str, repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lcp_bench", *words]
    env = {"PYTHONPATH": str(repository), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert part in done.stderr
    assert not list(tmp_path.iterdir())
