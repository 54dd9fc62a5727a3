"""The interface that all metrics share: features of a video (expensive, cached), then pure mathematics."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from metrics.cache import Arrays, CacheKey, FeatureCache, Gap, file_sha256
from metrics.errors import MetricError, VideoGap
from metrics.frechet import Array, FrechetDistance, frechet_distance
from metrics.intervals import Interval, clip_interval
from metrics.protocol import Protocol
from metrics.score import Direction, Score

log = logging.getLogger(__name__)

Files = Path | tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Features of many clips under one protocol.

    Attributes:
        protocol: what they were computed under, weights included.
        arrays: clip to features.
        gaps: clip to why it has none. Every expected clip is in one of the two.
        identities: clip to the person in it; intervals resample people. A clip that is not named is its own person.
    """

    protocol: Protocol
    arrays: dict[str, Arrays]
    gaps: dict[str, Gap]
    identities: Mapping[str, str] = field(default_factory=dict)

    def people(self, clips: Sequence[str]) -> list[str] | None:
        """Who is in each of these clips; None where nobody is known."""
        return [self.identities.get(clip, clip) for clip in clips] if self.identities else None

    @property
    def clips(self) -> tuple[str, ...]:
        """All expected clips, sorted."""
        return tuple(sorted({*self.arrays, *self.gaps}))


class Metric(ABC):
    """A protocol with its networks."""

    protocol: Protocol

    @abstractmethod
    def extract(self, files: Sequence[Path]) -> Arrays:
        """Features of one clip.

        Args:
            files: the video; for metrics of pairs also the video it is compared with.

        Raises:
            VideoGap: this clip cannot be scored.
        """

    @abstractmethod
    def scores(self, generated: FeatureSet, reference: FeatureSet | None = None) -> list[Score]:
        """Scores of a set of clips; `reference` holds the same clips' features of the real videos.

        Raises:
            MetricError: the sets were made under different protocols, or a reference is needed and absent.
        """

    def features(self, videos: Mapping[str, Files], cache: FeatureCache | None = None) -> FeatureSet:
        """Features of many clips, from the cache where it has them.

        A clip that cannot be scored becomes a gap with a reason; the others go on. Stopping in between loses the clip
        at hand, nothing else.

        Args:
            videos: clip to its file, or to the files of a pair.
            cache: where features are kept; None computes all of them.
        """
        arrays: dict[str, Arrays] = {}
        gaps: dict[str, Gap] = {}
        for clip, files in videos.items():
            with _full_precision():
                found = self._one(files if isinstance(files, tuple) else (files,), cache)
            if isinstance(found, Gap):
                log.warning("%s: %s is not scored: %s", self.protocol.metric, clip, found.message)
                gaps[clip] = found
            else:
                arrays[clip] = found
        return FeatureSet(self.protocol, arrays, gaps)

    def _one(self, files: tuple[Path, ...], cache: FeatureCache | None) -> Arrays | Gap:
        for path in files:
            if not path.is_file():
                return Gap("missing", f"expected a video at {path}, found none")
        try:
            hashes = tuple(file_sha256(path) for path in files)
        except OSError as error:
            return Gap("undecodable", f"{error.filename} cannot be read ({error.strerror or error})")
        key = CacheKey(hashes, self.protocol.feature_hash, self.protocol.weights_hash)
        stored = None if cache is None else cache.read(key)
        if stored is not None:
            return stored
        try:
            found: Arrays | Gap = self.extract(files)
        except VideoGap as gap:
            found = Gap(gap.reason, str(gap))
        if cache is not None:
            cache.write(key, found)
        return found


class ClipMetric(Metric):
    """A metric whose value is a mean over clips.

    Attributes:
        quantities: name of a score to its unit and direction.
    """

    quantities: dict[str, tuple[str, Direction]]

    @abstractmethod
    def values(self, features: Arrays) -> dict[str, float]:
        """One number per quantity for one clip."""

    def scores(self, generated: FeatureSet, reference: FeatureSet | None = None) -> list[Score]:
        """Means over the clips; `reference` is not used."""
        _require_own(self.protocol, generated)
        clips = sorted(generated.arrays)
        rows = [self.values(generated.arrays[clip]) for clip in clips]
        samples = sum(_length(generated.arrays[clip]) for clip in clips)
        people, expected = generated.people(clips), len(generated.clips)
        return [
            self._mean(name, [row[name] for row in rows], samples, generated.gaps, expected, people)
            for name in self.quantities
        ]

    def differences(self, run: FeatureSet, baseline: FeatureSet) -> list[Score]:
        """Paired differences run - baseline over the clips that both have, with `_minus_baseline` in their names.

        Raises:
            MetricError: the two were made under different protocols.
        """
        _require_own(self.protocol, run, baseline)
        clips = sorted(run.arrays.keys() & baseline.arrays.keys())
        gaps = baseline.gaps | run.gaps
        pairs = [(self.values(run.arrays[clip]), self.values(baseline.arrays[clip])) for clip in clips]
        samples = sum(_length(run.arrays[clip]) for clip in clips)
        expected = len({*run.clips, *baseline.clips})
        people = run.people(clips)
        return [
            self._mean(
                name, [one[name] - two[name] for one, two in pairs], samples, gaps, expected, people, "_minus_baseline"
            )
            for name in self.quantities
        ]

    def _mean(
        self,
        name: str,
        values: list[float],
        samples: int,
        gaps: dict[str, Gap],
        expected: int,
        people: list[str] | None,
        suffix: str = "",
    ) -> Score:
        numbers = np.array(values, dtype=np.float64)
        value = float(numbers.mean()) if numbers.size else None
        interval = Interval(None, None, reason="no clip could be scored")
        if value is not None:
            interval = clip_interval(
                lambda drawn: float(numbers[drawn].mean()),
                value,
                numbers.size,
                self.protocol.bootstrap,
                self.protocol.seed,
                people,
            )
        unit, direction = self.quantities[name]
        return Score(
            name=name + suffix,
            value=value,
            unit=unit,
            direction=direction,
            n=numbers.size,
            n_expected=expected,
            samples=samples,
            interval=interval,
            protocol=self.protocol.hash,
            label=self.protocol.label,
            gaps=gaps,
            reason=None if values else "no clip could be scored",
        )


class FrechetMetric(Metric):
    """A metric that compares the features of all clips of two sets."""

    unbiased: bool = True

    @abstractmethod
    def rows(self, generated: Arrays, reference: Arrays) -> tuple[Array, Array]:
        """Feature rows (k, D) of one clip on both sides, restricted to the same frames."""

    def scores(self, generated: FeatureSet, reference: FeatureSet | None = None) -> list[Score]:
        """The distance to the real clips, over the clips and frames that both sets have."""
        name = self.protocol.metric
        if reference is None:
            raise MetricError(f"{name} compares with real videos; give a reference set of the same clips")
        _require_own(self.protocol, generated, reference)
        pairs = self._pairs(generated, reference)
        used = [clip for clip, pair in pairs.items() if len(pair[0]) and len(pair[1])]
        left, right = ([pairs[clip][side] for clip in used] for side in (0, 1))
        for clip in (clip for clip, pair in pairs.items() if not len(pair[0])):
            generated = _without(generated, clip)
        return [
            self._score(
                name,
                generated,
                reference,
                left,
                right,
                lambda drawn: _distance(left, right, drawn, self.unbiased),
                generated.people(used),
            )
        ]

    def floor(self, reference: FeatureSet) -> Score:
        """Distance of the first half of the real clips to the second half: what equal distributions score at that n.

        Its `n` is the size of a half, and its notes say so. It belongs to scores of that n; with fewer clips every
        distance is larger.
        """
        _require_own(self.protocol, reference)
        clips = sorted(reference.arrays)
        half = len(clips) // 2
        blocks = [self.rows(reference.arrays[clip], reference.arrays[clip])[0] for clip in clips]
        left, right = blocks[:half], blocks[half : 2 * half]
        score = self._score(
            f"{self.protocol.metric}_floor",
            reference,
            reference,
            left,
            right,
            lambda drawn: _distance(left, right, drawn, self.unbiased),
        )
        return replace(
            score, notes=(*score.notes, f"n = {half}: {half} of {len(clips)} real clips against {half} others")
        )

    def difference(self, run: FeatureSet, baseline: FeatureSet, reference: FeatureSet) -> Score:
        """How much farther from the real clips `run` is than `baseline`; a resample draws the same clips of all three.

        Raises:
            MetricError: the sets were made under different protocols.
        """
        _require_own(self.protocol, run, baseline, reference)
        ours, theirs = self._pairs(run, reference), self._pairs(baseline, reference)
        both = [clip for clip in ours if clip in theirs and len(ours[clip][0]) and len(theirs[clip][0])]
        sides = [[pairs[clip][side] for clip in both] for pairs in (ours, theirs) for side in (0, 1)]

        def statistic(drawn: NDArray[np.int64] | None) -> FrechetDistance:
            first = _distance(sides[0], sides[1], drawn, self.unbiased)
            second = _distance(sides[2], sides[3], drawn, self.unbiased)
            return _minus(first, second)

        name = f"{self.protocol.metric}_minus_baseline"
        merged = FeatureSet(baseline.protocol, baseline.arrays, baseline.gaps | reference.gaps)
        return self._score(name, run, merged, sides[0], sides[1], statistic, run.people(both))

    def _pairs(self, generated: FeatureSet, reference: FeatureSet) -> dict[str, tuple[Array, Array]]:
        common = sorted(generated.arrays.keys() & reference.arrays.keys())
        pairs = {clip: self.rows(generated.arrays[clip], reference.arrays[clip]) for clip in common}
        return pairs

    def _score(
        self,
        name: str,
        generated: FeatureSet,
        reference: FeatureSet,
        left: list[Array],
        right: list[Array],
        statistic: Callable[[NDArray[np.int64] | None], FrechetDistance],
        people: list[str] | None = None,
    ) -> Score:
        expected = len({*generated.clips, *reference.clips})
        counts = [sum(map(len, blocks)) for blocks in (left, right)]
        common: dict[str, Any] = {
            "name": name,
            "unit": "squared feature units",
            "direction": "lower",
            "n": len(left),
            "n_expected": expected if not name.endswith("_floor") else expected // 2,
            "samples": counts[0],
            "protocol": self.protocol.hash,
            "label": self.protocol.label,
            "gaps": _absent(generated, reference) | reference.gaps | generated.gaps,
        }
        if min(counts) < 2:
            reason = f"{min(counts)} feature vectors, a covariance needs at least 2"
            return Score(value=None, interval=Interval(None, None, reason=reason), reason=reason, **common)
        found = statistic(None)
        interval = clip_interval(
            lambda drawn: statistic(drawn).value,
            found.value,
            len(left),
            self.protocol.bootstrap,
            self.protocol.seed,
            people,
        )
        return Score(value=found.value, interval=interval, notes=_notes(found), **common)


@contextmanager
def _full_precision() -> Iterator[None]:
    """float32 as float32: tensor cores' 10-bit mantissas move deep features by more than the differences measured."""
    settings: tuple[Any, ...] = (torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn).conv)
    before = [each.fp32_precision for each in settings]
    try:
        for each in settings:
            each.fp32_precision = "ieee"
        yield
    finally:
        for each, value in zip(settings, before, strict=True):
            each.fp32_precision = value


def _distance(
    left: list[Array], right: list[Array], drawn: NDArray[np.int64] | None, unbiased: bool
) -> FrechetDistance:
    chosen = range(len(left)) if drawn is None else drawn
    first, second = (np.concatenate([blocks[index] for index in chosen]) for blocks in (left, right))
    return frechet_distance(first, second, unbiased=unbiased)


def _without(features: FeatureSet, clip: str) -> FeatureSet:
    gap = Gap("too short", f"{clip} has no frame that can be used on both sides")
    return replace(features, gaps=features.gaps | {clip: gap})


def _minus(first: FrechetDistance, second: FrechetDistance) -> FrechetDistance:
    return FrechetDistance(
        first.value - second.value,
        first.mean_term - second.mean_term,
        max(first.trace, second.trace),
        first.n,
        second.n,
        first.dimension,
        first.full_rank and second.full_rank,
    )


def _notes(found: FrechetDistance) -> tuple[str, ...]:
    if found.full_rank:
        return ()
    smallest = min(found.n, found.n_reference)
    return (
        f"{smallest} samples of {found.dimension} dimensions: the covariance is singular and the value is dominated by "
        "the number of samples; compare at equal n only",
    )


def _absent(generated: FeatureSet, reference: FeatureSet) -> dict[str, Gap]:
    """Clips of one set that the other was never asked for."""
    found = {}
    for clip in {*generated.clips} ^ {*reference.clips}:
        side = "the real set" if clip in generated.clips else "the scored set"
        found[clip] = Gap("missing", f"{clip} is not in {side}")
    return found


def _require_own(protocol: Protocol, *sets: FeatureSet) -> None:
    wanted = (protocol.metric, protocol.feature_hash, protocol.weights_hash)
    for each in sets:
        found = (each.protocol.metric, each.protocol.feature_hash, each.protocol.weights_hash)
        if found != wanted:
            raise MetricError(
                f"features of {found[0]} (protocol {found[1]}, weights {found[2]}) cannot be scored as {wanted[0]} "
                f"(protocol {wanted[1]}, weights {wanted[2]}); compute them again under one protocol"
            )


def _length(features: Arrays) -> int:
    return max((len(array) for array in features.values() if array.ndim), default=0)
