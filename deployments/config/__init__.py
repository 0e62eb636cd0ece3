"""Serve configs: checks before a cluster starts, and the models that a cluster has deployed."""
