"""Serve configs, checked before a cluster starts."""
