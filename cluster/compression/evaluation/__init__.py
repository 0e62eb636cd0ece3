"""Measuring the artifact in fresh processes, and the gate that decides by it."""
