"""A router: its plan, the table of the models' replicas, and a node for each kind of route."""
