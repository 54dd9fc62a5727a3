"""Training of what this repository ships: the `mini` model and the `mini` metric networks."""
