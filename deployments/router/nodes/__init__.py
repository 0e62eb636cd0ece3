"""A node for each kind of route, named as in the config; ``build.py`` makes them from a plan."""
