"""A procedural talking-head data set: people, speech and faces that follow from a seed, without any download.

One random script drives sound and mouth, so that everything is known and not estimated. It is a flat cartoon: it lets
the small model and the small metrics be trained and tested, and makes a worse video get a worse number. It stands for
no real data set, and its numbers carry their own label.

Every source of chance has a generator of its own, `numpy.random.default_rng([root, stream, person(, take)])`: a take
can be rendered again with other motion, and a new parameter never changes the bytes of old clips.
"""
