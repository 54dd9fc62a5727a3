"""Emotion labels of a clip's sound for MEMO: a classifier on speech features, second by second.

The speech encoder itself is an extra, see `lcp_bench.models.weights.emotion2vec`; whoever has another passes it in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMOTIONS = 9
NO_EMOTION = EMOTIONS
"""Label of the unconditional branch."""

FEATURES = 1024
"""Width of the speech features."""

SpeechEncoder = Callable[[Tensor], Tensor]
"""Layer-normalised sound (samples,) to features (steps, `FEATURES`)."""


class EmotionClassifier(nn.Module):
    """Speech features to probabilities of the emotions.

    Args:
        layers: Linear layers, 1 or more.
        channels: Width of the hidden ones.
    """

    def __init__(self, layers: int = 5, channels: int = 2048) -> None:
        super().__init__()
        if layers == 1:
            self.layers: nn.Module = nn.Linear(FEATURES, EMOTIONS)
            return
        widths = [FEATURES, *[channels] * (layers - 1), EMOTIONS]
        named: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(1, layers + 1):
            named[f"fc{number}"] = nn.Linear(widths[number - 1], widths[number])
            if number < layers:
                named[f"relu{number}"] = nn.ReLU()
        self.layers = nn.Sequential(named)

    def forward(self, features: Tensor) -> Tensor:
        """(rows, 1024) to probabilities (rows, 9)."""
        return self.layers(features).softmax(dim=-1)


def emotion_labels(
    waveform: Tensor, sample_rate: int, frames: int, encoder: SpeechEncoder, classifier: nn.Module
) -> Tensor:
    """One label per video frame.

    The first and the last two seconds are judged as a whole and label their outer second; every second between is
    judged with its two neighbours. As published, the labels are stretched over `frames`, padding included.

    Args:
        waveform: (samples,) of the input sound; of less than two seconds all of it is judged as a whole.
        sample_rate: Samples per second.
        frames: Frames of all segments.
        encoder: See `SpeechEncoder`.
        classifier: See `EmotionClassifier`.

    Returns:
        int64 (frames,) in 0..8.
    """
    samples, second = waveform.shape[0], sample_rate

    def judge(start: int, stop: int) -> Tensor:
        segment = waveform[start:stop]
        features = encoder(F.layer_norm(segment, segment.shape))
        return classifier(features.mean(dim=0, keepdim=True)).argmax(dim=-1)

    labels = torch.zeros(samples, dtype=torch.int64)
    labels[:second] = judge(0, 2 * second)
    for start in range(second, samples - second, second):
        labels[start : start + second] = judge(start - second, start + 2 * second)
    labels[-second:] = judge(max(0, samples - 2 * second), samples)
    stretched = F.interpolate(labels[None, None].float(), size=frames, mode="nearest")
    return stretched[0, 0].to(torch.int64)


def segment_emotion(labels: Tensor) -> int:
    """The most frequent of a segment's labels (frames,), the smallest of them where several are."""
    return int(torch.bincount(labels.cpu()).argmax())
