"""What the models' sizes have in common."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from lcp_bench.errors import ConfigError

Size = TypeVar("Size")

TINY_WAV2VEC: Mapping[str, object] = MappingProxyType(
    {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": (24,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
)
"""The speech encoder of the tiny Hallo and MEMO."""


def find_size(sizes: Mapping[str, Size], name: str) -> Size:
    """Look a size up.

    Raises:
        ConfigError: There is no such size; names those that exist.
    """
    if name not in sizes:
        raise ConfigError(f"model.size must be one of {', '.join(sizes)}, got {name!r}")
    return sizes[name]
