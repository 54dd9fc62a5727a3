"""Data sets: from files to a frozen list of clips, and from a clip to what a model takes.

`load_dataset` gives the manifest; `lcp_bench.data.inputs.prepare_clip` does the work per clip (imports torch).
"""

from lcp_bench.data.manifest import Clip, Manifest
from lcp_bench.data.registry import load_dataset

__all__ = ["Clip", "Manifest", "load_dataset"]
