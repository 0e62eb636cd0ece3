"""Builds of the model cut into shards, in addition to the whole program.

cutting.py   a finished model to cut: places, costs, programs of its parts
profile.py   places and costs → the manifest's Profile
layouts.py   check before training; the recipe's cuts → balanced, built, measured → Layout
"""
