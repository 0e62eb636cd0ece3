"""Measurement of the artifact in fresh processes, and the gate that decides by it."""
