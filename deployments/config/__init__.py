"""Checks of Serve configs, before a cluster starts."""
