"""Compiling the finished model: a table of program kinds, each built where it runs."""
