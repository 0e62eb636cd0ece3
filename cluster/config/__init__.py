"""Every knob a user writes, as frozen pydantic models.

recipe.yaml → base.load(path, Recipe)   recipe.py    what the compression job does
                                        sources.py   models and data
                                        steps.py     train, prune, distill, quantize, ...
                                        search.py    which steps to find by trial
                                        gate.py      the limits of the result
            → located(recipe, folder)   locate.py    its paths, from where the file lies
serve.yaml  → applications[].args       serving.py   ModelArgs: what a serving replica does
"""
