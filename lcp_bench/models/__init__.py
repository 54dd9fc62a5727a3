"""The model family: UNets with named layers, conditioning modules, and the models made of them."""
