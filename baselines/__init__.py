"""Strategies to compare with, each one module with its own frozen Config."""
