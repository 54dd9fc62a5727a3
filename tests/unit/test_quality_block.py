"""A record's quality: what it accepts, every lie it refuses, and how blocks come and go."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from quality_records import block, score, scored

from lcp_bench.errors import StoreError
from lcp_bench.quality_block import block_key, short, still_valid, videos_digest, with_quality
from lcp_bench.quality_twin import twin_command
from lcp_bench.record import validate
from lcp_bench.tracker import summary

RecordMaker = Callable[..., dict[str, Any]]
KEY = "mini:0123abcd"


def test_a_scored_record_is_valid(make_record: RecordMaker) -> None:
    quality = {KEY: block(score("fvd"), score("efid", None), difference=[score("fvd_minus_baseline", -0.25)])}
    quality[KEY]["scores"]["videos"] |= {"psnr": None, "psnr_reason": "no unaccelerated run"}
    validate(make_record(**scored(quality)))


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "null without reason": (lambda b: b["scores"]["videos"].update(psnr=None), "psnr_reason"),
    "value without n": (lambda b: b["scores"]["videos"]["fvd"].update(n=0), "1 or more"),
    "more than expected": (lambda b: b["scores"]["videos"]["fvd"].update(n=11), "at most n_expected"),
    "interval beside": (lambda b: b["scores"]["videos"]["fvd"].update(low=2.0), "low <= value <= high"),
    "half an interval": (lambda b: b["scores"]["videos"]["fvd"].update(low=None, low_reason="x"), "both ends"),
    "direction": (lambda b: b["scores"]["videos"]["fvd"].update(direction="down"), "lower, higher or none"),
    "protocol": (lambda b: b["scores"]["videos"]["fvd"].update(protocol="b" * 16), "one of the block's protocols"),
    "label": (lambda b: b["scores"]["videos"]["fvd"].update(label=""), "text"),
    "bare number": (lambda b: b["scores"]["videos"]["fvd"].pop("samples"), "the key 'samples'"),
    "side": (lambda b: b["scores"].update(other={}), "of"),
    "another set": (lambda b: b.update(set="paper"), "the set of its name"),
    "no inputs": (lambda b: b.pop("inputs"), "the key 'inputs'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_block_is_refused_by_name(make_record: RecordMaker, case: str) -> None:
    change, message = REFUSED[case]
    made = block(score("fvd"))
    change(made)
    with pytest.raises(StoreError, match=message):
        validate(make_record(**scored({KEY: made})))


def test_names_and_labels_keep_mini_and_public_apart(make_record: RecordMaker) -> None:
    with pytest.raises(StoreError, match="named SET:8 hex digits"):
        validate(make_record(**scored({"fid": block(score("fid"))})))
    with pytest.raises(StoreError, match="only the set mini may carry"):
        validate(make_record(**scored({"paper:0123abcd": block(score("fid"), name="paper")})))
    validate(make_record(**scored({"paper:0123abcd": block(score("fid", label="public"), name="paper")})))


def test_random_weights_never_carry_a_score(make_record: RecordMaker) -> None:
    with pytest.raises(StoreError, match="can never carry a score"):
        validate(make_record(quality={KEY: block(score("fvd"))}))


def test_blocks_stand_beside_each_other(make_record: RecordMaker) -> None:
    plain = make_record(**scored({})) | {"quality": None, "quality_reason": "no metric has been run"}
    once = with_quality(plain, {KEY: block(score("fvd"), score("psnr", label="no backbone"))})
    assert "quality_reason" not in once and once["labels"]["metric_backbones"] == "mini"
    assert plain["quality"] is None, "the old record is not touched"
    public = block(score("fvd", label="public", protocol="c" * 16), name="paper")
    both = with_quality(once, {"paper:89abcdef": public})
    assert set(both["quality"]) == {KEY, "paper:89abcdef"} and both["labels"]["metric_backbones"] == "mini; public"
    validate(both)
    newer = with_quality(both, {KEY: block(score("fvd", 3.0))})
    assert newer["quality"][KEY]["scores"]["videos"]["fvd"]["value"] == 3.0 and len(newer["quality"]) == 2
    assert with_quality(plain, {}) == plain
    empty = with_quality(plain, {KEY: block()})
    assert empty["labels"]["metric_backbones"] is None
    validate(empty)


def test_the_key_follows_the_question() -> None:
    asked = {"set": "mini", "metrics": ["fvd"], "bootstrap": 100, "min_clips": 4, "weights": {"net": "1"}}
    keys = {
        block_key(asked | change) for change in ({}, {"bootstrap": 200}, {"weights": {"net": "2"}}, {"set": "paper"})
    }
    assert len(keys) == 4 and all(len(key.partition(":")[2]) == 8 for key in keys)
    assert block_key(dict(reversed(asked.items()))) == block_key(asked)


def test_the_digest_follows_the_frames() -> None:
    rows = [{"clip": "a", "status": "ok", "frames_sha256": "1"}, {"clip": "b", "status": "failed"}]
    first = videos_digest(rows, ["a", "b"])
    assert videos_digest([*rows, {"clip": "stranger", "status": "ok", "frames_sha256": "9"}], ["a", "b"]) == first
    rows[1] = {"clip": "b", "status": "ok", "frames_sha256": "2"}
    assert videos_digest(rows, ["a", "b"]) != first


def test_scores_of_other_videos_do_not_survive() -> None:
    one, other = block(score("fvd")), block(score("fvd"))
    other["inputs"] = {"videos": "f" * 16}
    record = {"quality": {KEY: one, "mini:ffffffff": other}}
    assert still_valid(record, "0" * 16) == {KEY: one}
    assert still_valid(None, "0" * 16) == still_valid({"quality": None}, "0" * 16) == {}


def test_the_headline_and_the_tracker_show_values_with_n(make_record: RecordMaker) -> None:
    quality = {KEY: block(score("fvd", 2.0), reference=[score("fvd_floor", 9.0)])}
    record = make_record(**scored(copy.deepcopy(quality)))
    assert short(None) is None
    shown: Any = short(quality)
    assert shown[KEY]["fvd"]["value"] == 2.0 and set(shown[KEY]) == {"fvd"}
    flat = summary(record)
    assert flat[f"quality/{KEY}/fvd/value"] == 2.0 and flat[f"quality/{KEY}/fvd/n"] == 10
    assert flat[f"quality/{KEY}/fvd/label"] == "mini" and flat[f"quality/{KEY}/fvd/low"] == 1.5
    assert not any(isinstance(value, (list, dict)) or value is None for value in flat.values())


def test_the_command_of_the_twin() -> None:
    words = ["+model=hallo", "accel=lcp", "++accel.schedule.key_steps=11", "dataset.root=my data", "metric=mini"]
    expected = "python -m lcp_bench +model=hallo +accel=none 'dataset.root=my data' metric=mini"
    assert twin_command(words) == expected
    assert twin_command(["experiment=x"]) == "python -m lcp_bench +accel=none experiment=x"
