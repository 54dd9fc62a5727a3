"""A protocol is one frozen, hashed value; whatever can change a number changes its hash."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from metrics.cache import Gap
from metrics.errors import MetricError, VideoGap
from metrics.intervals import Interval, clip_interval
from metrics.protocol import (
    BackboneId,
    EfidProtocol,
    FidelityProtocol,
    FidProtocol,
    FvdProtocol,
    Protocol,
    SyncProtocol,
)
from metrics.score import Score, comparable

PROTOCOLS: tuple[type[Protocol], ...] = (FvdProtocol, FidProtocol, EfidProtocol, SyncProtocol, FidelityProtocol)
CHOICES: dict[str, Any] = {
    "variant": "disco",
    "resize": {"fvd": "short_side", "fid": "tf1"},
    "covariance": "n",
    "against": "ground truth",
    "trunk": "vgg",
    "border": "reflect",
    "coefficients": (0, 80),
    "backbones": (BackboneId("net", "sha256:00", "public"),),
    "min_iou": 0.25,
}
FIXED = {("sync", "fps"), ("sync", "sample_rate")}


def changed(protocol: Protocol, name: str) -> Any:
    value = getattr(protocol, name)
    if name in CHOICES:
        choice = CHOICES[name]
        return choice[protocol.metric] if isinstance(choice, dict) else choice
    return value + "!" if isinstance(value, str) else value + 1


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_every_field_changes_the_hash(kind: type[Protocol]) -> None:
    protocol = kind()
    hashes = {protocol.hash}
    names = [each.name for each in fields(protocol) if (protocol.metric, each.name) not in FIXED]
    for name in names:
        hashes.add(replace(protocol, **{name: changed(protocol, name)}).hash)
    assert len(hashes) == 1 + len(names)
    assert kind().hash == protocol.hash


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_features_do_not_depend_on_what_comes_after_them(kind: type[Protocol]) -> None:
    protocol = kind()
    late = replace(protocol, bootstrap=7, seed=3)
    assert late.feature_hash == protocol.feature_hash and late.hash != protocol.hash
    seeded = protocol.with_backbones(BackboneId("net", "seeded-v1:0", "seeded"))
    assert seeded.feature_hash == protocol.feature_hash and seeded.weights_hash != protocol.weights_hash
    assert replace(protocol, version=2).feature_hash != protocol.feature_hash


def test_metrics_differ_by_name_and_defaults_are_pinned() -> None:
    """A changed default is a changed protocol: raise its version, and this list with it."""
    assert {kind.metric: kind().hash for kind in PROTOCOLS} == PINNED


PINNED: dict[str, str] = {
    "fvd": "3a016ea1861d5cb8",
    "fid": "39a7e257fed8ead6",
    "efid": "83819008211be591",
    "sync": "dd5e9288c80b0eb8",
    "fidelity": "294fdd0b3c045562",
}


def test_protocols_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        FvdProtocol().window = 32  # type: ignore[misc]


def test_labels() -> None:
    public, seeded = BackboneId("a", "sha256:1", "public"), BackboneId("b", "seeded-v1:0", "seeded")
    assert SyncProtocol().with_backbones(public, public).label == "public"
    assert SyncProtocol().with_backbones(public, seeded).label == "public, seeded"
    assert FidelityProtocol().label == "no backbone"


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (FvdProtocol, {"window": 8}, "window >= 9"),
        (FvdProtocol, {"variant": "torchscript"}, "videogpt"),
        (FidProtocol, {"stride": 0}, "at least 1"),
        (EfidProtocol, {"coefficients": (80, 300)}, "0..257"),
        (SyncProtocol, {"fps": 30.0}, "25 fps"),
        (SyncProtocol, {"min_detections": 0}, "min_detections"),
        (FidelityProtocol, {"trunk": "squeeze"}, "alex"),
        (FidProtocol, {"bootstrap": -1}, "bootstrap"),
    ],
)
def test_wrong_values_are_refused(kind: type[Protocol], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(MetricError, match=message):
        kind(**wrong)


# Scores and intervals


def score(**changes: Any) -> Score:
    facts: dict[str, Any] = {
        "name": "fvd",
        "value": 1.5,
        "unit": "squared feature units",
        "direction": "lower",
        "n": 3,
        "n_expected": 4,
        "samples": 30,
        "interval": Interval(1.0, 2.0, 0.95, 200),
        "protocol": "0" * 16,
        "label": "public",
        "gaps": {"d": Gap("no face", "d.mp4: no face")},
    }
    return Score(**(facts | changes))


def test_a_null_has_its_reason_beside_it() -> None:
    block = score(value=None, reason="no clip could be scored", interval=Interval(None, None, reason="none")).as_dict()
    assert block["value_reason"] == "no clip could be scored"
    assert block["low_reason"] == block["high_reason"] == "none"
    assert score().as_dict()["gaps"] == [{"clip": "d", "reason": "no face", "message": "d.mp4: no face"}]


def test_only_equal_protocols_and_n_share_a_column() -> None:
    comparable([score(), score(value=9.0)])
    for other in (score(n=2), score(protocol="1" * 16), score(name="fid")):
        with pytest.raises(MetricError, match="cannot share a column"):
            comparable([score(), other])


def test_the_interval_of_a_mean_is_students() -> None:
    """Over normal samples the resampled interval is close to the textbook's, and repeats with its seed."""
    import numpy as np

    values = np.random.default_rng(0).standard_normal(40) + 5
    found = [
        clip_interval(lambda drawn: float(values[drawn].mean()), float(values.mean()), 40, 2000, seed)
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]
    half = 2.0227 * values.std(ddof=1) / np.sqrt(40)
    assert found[0].low is not None and found[0].high is not None
    assert (found[0].high - found[0].low) / 2 == pytest.approx(half, rel=0.06)
    assert clip_interval(lambda drawn: 0.0, 0.0, 1, 100, 0).reason == "n = 1: an interval needs at least 2 clips"
    assert clip_interval(lambda drawn: 0.0, 0.0, 9, 0, 0).low is None


def test_gaps_have_known_reasons() -> None:
    with pytest.raises(MetricError, match="no face track"):
        VideoGap("text", reason="bad luck")
