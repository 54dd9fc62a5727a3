"""Weights: where they come from, how they are read safely, and how seeded ones are drawn.

`sources` lists the public files, `hashing` and `lockfile` prove which bytes were used, `checkpoint` reads files and
loads them strictly, `layouts` knows the public folder layouts, `seeded` draws weights from a seed.
"""
