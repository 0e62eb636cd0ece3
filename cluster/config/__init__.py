"""Every knob a user writes, as frozen pydantic models.

recipe.yaml → base.load(path, Recipe)   recipe.py    what the compression job does
serve.yaml  → applications[].args       serving.py   ModelArgs: what a serving replica does
"""
