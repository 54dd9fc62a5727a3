"""SyncNet: joint embedding of mouth movement and speech (Chung & Zisserman 2016, "Out of time").

Key names and layer numbers are those of joonson/syncnet_python (`syncnet_v2.model`).
"""

from __future__ import annotations

from torch import Tensor, nn

from metrics.errors import MetricError

EMBEDDING = 1024
LIP_FRAMES = 5
LIP_SIDE = 224
MFCC_COLUMNS = 20
MFCC_ROWS = 13


def _audio_layers() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(1, 1)),
        *(nn.Conv2d(64, 192, 3, 1, 1), nn.BatchNorm2d(192), nn.ReLU(), nn.MaxPool2d(3, (1, 2))),
        *(nn.Conv2d(192, 384, 3, 1, 1), nn.BatchNorm2d(384), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, 1, 1), nn.BatchNorm2d(256), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, 1, 1), nn.BatchNorm2d(256), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 512, (5, 4)), nn.BatchNorm2d(512), nn.ReLU()),
    )


def _lip_layers() -> nn.Sequential:
    spatial, half, edge = (1, 3, 3), (1, 2, 2), (0, 1, 1)
    return nn.Sequential(
        *(nn.Conv3d(3, 96, (5, 7, 7), half), nn.BatchNorm3d(96), nn.ReLU(), nn.MaxPool3d(spatial, half)),
        *(nn.Conv3d(96, 256, (1, 5, 5), half, edge), nn.BatchNorm3d(256), nn.ReLU(), nn.MaxPool3d(spatial, half, edge)),
        *(nn.Conv3d(256, 256, spatial, 1, edge), nn.BatchNorm3d(256), nn.ReLU()),
        *(nn.Conv3d(256, 256, spatial, 1, edge), nn.BatchNorm3d(256), nn.ReLU()),
        *(nn.Conv3d(256, 256, spatial, 1, edge), nn.BatchNorm3d(256), nn.ReLU(), nn.MaxPool3d(spatial, half)),
        *(nn.Conv3d(256, 512, (1, 6, 6)), nn.BatchNorm3d(512), nn.ReLU()),
    )


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, EMBEDDING))


class SyncNet(nn.Module):
    """Two towers with embeddings of 1024 numbers; the embeddings are compared as they are, not normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = _audio_layers()
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = _lip_layers()

    def audio(self, windows: Tensor) -> Tensor:
        """MFCC windows to embeddings.

        Args:
            windows: float (N, 1, 13, 20), 0.2 s of `metrics.mfcc.mfcc` of 16-bit sample values.

        Returns:
            (N, 1024).

        Raises:
            MetricError: wrong layout.
        """
        if windows.shape[1:] != (1, MFCC_ROWS, MFCC_COLUMNS):
            raise MetricError(f"SyncNet expects MFCC windows (n, 1, 13, 20), got {tuple(windows.shape)}")
        embedding: Tensor = self.netfcaud(self.netcnnaud(windows).flatten(1))
        return embedding

    def lip_features(self, windows: Tensor) -> Tensor:
        """Output of the lip tower's convolutions, (N, 512); `windows` as for `lip`.

        Raises:
            MetricError: wrong layout.
        """
        if windows.shape[1:] != (3, LIP_FRAMES, LIP_SIDE, LIP_SIDE):
            raise MetricError(f"SyncNet expects lip windows (n, 3, 5, 224, 224), got {tuple(windows.shape)}")
        features: Tensor = self.netcnnlip(windows)
        return features.flatten(1)

    def lip(self, windows: Tensor) -> Tensor:
        """Face windows to embeddings.

        Args:
            windows: float (N, 3, 5, 224, 224), BGR in 0..255 (not scaled), five frames at 25 fps.

        Returns:
            (N, 1024).
        """
        embedding: Tensor = self.netfclip(self.lip_features(windows))
        return embedding
