"""Clocks, memory, work, device state and statistics: the only place that measures."""
