"""Upstream's own numbers, reproduced. A case that no handler knows is a failure, not a skip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import handlers_accel
import handlers_echomimic
import handlers_hallo
import handlers_memo
import handlers_metrics
from cases import COMMITTED, Case, collect, roots

HANDLERS = {
    "accel": handlers_accel.HANDLERS,
    "echomimic": handlers_echomimic.HANDLERS,
    "hallo": handlers_hallo.HANDLERS,
    "memo": handlers_memo.HANDLERS,
    "metrics": handlers_metrics.HANDLERS,
}
CASES = [case for case in collect(tuple(HANDLERS)) if case.component not in handlers_accel.ELSEWHERE]


def test_cases_are_found() -> None:
    """The committed subset alone covers every component that has a handler."""
    assert COMMITTED.is_dir()
    committed = {case.component for case in CASES if (COMMITTED / case.name).is_dir()}
    assert committed == {(model, component) for model, handlers in HANDLERS.items() for component in handlers}


def as_parameter(case: Case) -> Any:
    """The committed cases have every component; the shared ones beyond them are slow, as a whole."""
    further = not (COMMITTED / case.name).is_dir() and case.folder.parents[1] in roots()[:2]
    return pytest.param(case, id=case.name, marks=pytest.mark.slow if further else ())


@pytest.mark.parametrize("case", list(map(as_parameter, CASES)))
@torch.inference_mode()
def test_golden(case: Case) -> None:
    """Every output of the case within the case's own tolerance."""
    model, component = case.component
    handler = HANDLERS[model].get(component)
    assert handler is not None, f"no handler computes {model}/{component}; add one to tests/golden/handlers_{model}.py"
    got = handler(case)
    expected = case.outputs
    missing = set(expected) - set(got)
    assert not missing, f"{case.name}: outputs not computed: {sorted(missing)}"
    for name, want in expected.items():
        have = torch.as_tensor(np.asarray(got[name]))
        assert have.shape == want.shape, f"{case.name}/{name}: shape {tuple(have.shape)}, expected {tuple(want.shape)}"
        if not want.is_floating_point():
            assert torch.equal(have.to(want.dtype), want), f"{case.name}/{name}: integers differ"
            continue
        rtol, atol = case.tolerance(name)
        torch.testing.assert_close(have.to(want.dtype), want, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
