"""Building the model once more, cut into shards, beside the whole program.

check.py     before anything is trained: can it be cut as the recipe asks?
cutting.py   a finished model as something to cut: places, costs, programs of its parts
profile.py   places and costs → the manifest's Profile
layouts.py   the recipe's cuts → balanced, built, measured, balanced again → Layout
"""
