"""Compilation of the finished model: a table of program kinds, each built on its target."""
