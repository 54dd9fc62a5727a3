"""Backbones of the metrics, with the key names of the public weight files; none of them downloads anything."""
