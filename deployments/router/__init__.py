"""A router: what its routes ask, where replicas are, and a node for each kind of route."""
