"""lcp_bench: a research harness for training-free acceleration of diffusion talking-head models."""

__version__ = "0.1.0"
