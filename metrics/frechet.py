"""Fréchet distance of Gaussians fitted to two sets of features (Dowson & Landau 1982; Heusel et al. 2017).

Everything is float64. The trace of the matrix square root is computed as a sum of singular values, which is exact for
rank-deficient covariances too: no epsilon on the diagonal, no complex numbers. The matrix square root of
mseitzer/pytorch-fid and the eigenvalue form of torchmetrics agree with it to about 1e-13 of the trace at full rank and
3e-8 of the trace below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrics.errors import MetricError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean (D,) and covariance (D, D) of n feature vectors, float64."""

    mean: Array
    covariance: Array
    n: int


@dataclass(frozen=True, slots=True)
class FrechetDistance:
    """A distance with what is needed to judge it.

    Attributes:
        value: squared distance in squared feature units; >= 0 up to rounding, never clipped; lower is closer.
        mean_term: |mu1 - mu2|^2.
        trace: tr(S1) + tr(S2), the scale on which `value` is small or large.
        n: samples of the first set.
        n_reference: samples of the second set.
        dimension: D.
        full_rank: whether both sets have more samples than dimensions; if not, the covariances are singular and the
            value is dominated by sampling noise (it falls with n for equal distributions).
    """

    value: float
    mean_term: float
    trace: float
    n: int
    n_reference: int
    dimension: int
    full_rank: bool


def as_features(features: Any, name: str = "features") -> Array:
    """Features as a finite float64 matrix.

    Args:
        features: array or tensor (N, D) of numbers, N >= 2.
        name: what to call it in a message.

    Raises:
        MetricError: not a matrix, fewer than two rows, no columns, or a value that is not finite.
    """
    matrix = np.asarray(features, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] < 1:
        raise MetricError(f"expected {name} of shape (n, d), got {matrix.shape}")
    if matrix.shape[0] < 2:
        raise MetricError(f"a covariance needs at least 2 samples, got {matrix.shape[0]} in {name}; score more clips")
    if not np.isfinite(matrix).all():
        raise MetricError(f"{name} hold {int((~np.isfinite(matrix)).sum())} values that are not finite numbers")
    return matrix


def statistics(features: Any, *, unbiased: bool = True) -> Statistics:
    """Mean and covariance of (N, D) features; divided by N - 1, or by N where `unbiased` is False.

    Raises:
        MetricError: see `as_features`.
    """
    matrix = as_features(features)
    mean = matrix.mean(axis=0)
    scaled = _scaled(matrix, unbiased)
    return Statistics(mean, scaled.T @ scaled, matrix.shape[0])


def frechet_distance(features: Any, reference: Any, *, unbiased: bool = True) -> FrechetDistance:
    """Fréchet distance |mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)).

    With A, B the centred features divided by sqrt(N - 1), tr((S1 S2)^(1/2)) is the sum of the singular values of A B^T.

    Args:
        features: (N1, D) of the set that is scored.
        reference: (N2, D) of the set it is compared with.
        unbiased: covariance over N - 1 (pytorch-fid, torchmetrics) or over N (StyleGAN-V).

    Raises:
        MetricError: see `as_features`, or the dimensions differ.

    >>> import numpy as np
    >>> frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]])).value
    9.0
    """
    first, second = as_features(features), as_features(reference, "reference features")
    if first.shape[1] != second.shape[1]:
        raise MetricError(
            f"both sets must have features of one size, got {first.shape[1]} and {second.shape[1]}; "
            "they come from different backbones"
        )
    left, right = _scaled(first, unbiased), _scaled(second, unbiased)
    trace = float(np.square(left).sum() + np.square(right).sum())
    mean_term = float(np.square(first.mean(axis=0) - second.mean(axis=0)).sum())
    root = float(np.linalg.svd(_factor(left) @ _factor(right).T, compute_uv=False).sum())
    dimension = first.shape[1]
    return FrechetDistance(
        value=mean_term + trace - 2.0 * root,
        mean_term=mean_term,
        trace=trace,
        n=first.shape[0],
        n_reference=second.shape[0],
        dimension=dimension,
        full_rank=min(first.shape[0], second.shape[0]) > dimension,
    )


def frechet_from_statistics(first: Statistics, second: Statistics) -> FrechetDistance:
    """Fréchet distance from means and covariances, for statistics that somebody else published.

    The trace term is the sum of the square roots of the eigenvalues of S1^(1/2) S2 S1^(1/2); negative rounding errors
    of eigenvalues count as zero.

    Raises:
        MetricError: the dimensions differ.
    """
    if first.mean.shape != second.mean.shape or first.covariance.shape != second.covariance.shape:
        raise MetricError(f"statistics of one size are needed, got {first.mean.shape} and {second.mean.shape}")
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ second.covariance @ root)
    mean_term = float(np.square(first.mean - second.mean).sum())
    trace = float(np.trace(first.covariance) + np.trace(second.covariance))
    return FrechetDistance(
        value=mean_term + trace - 2.0 * float(np.sqrt(np.clip(eigenvalues, 0.0, None)).sum()),
        mean_term=mean_term,
        trace=trace,
        n=first.n,
        n_reference=second.n,
        dimension=first.mean.shape[0],
        full_rank=min(first.n, second.n) > first.mean.shape[0],
    )


def _scaled(matrix: Array, unbiased: bool) -> Array:
    centred: Array = (matrix - matrix.mean(axis=0)) / np.sqrt(matrix.shape[0] - (1 if unbiased else 0))
    return centred


def _factor(centred: Array) -> Array:
    """A matrix with the same Gram matrix and at most D rows."""
    if centred.shape[0] <= centred.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"), dtype=np.float64)
