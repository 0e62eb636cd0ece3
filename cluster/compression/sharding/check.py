"""Whether a model can be cut as its recipe asks, found out before it is trained for hours."""

from __future__ import annotations

from cluster.config.recipe import Recipe
from cluster.errors import PlanError
from cluster.models import LoadedModel
from cluster.parallel import graph, tensor


def check(model: LoadedModel, recipe: Recipe) -> None:
    """PlanError, naming the cut, if the model has not the places or no such slices.

    Steps may change the model: what they change is checked again as the layouts are built.
    """
    if not recipe.parallel:
        return
    places = len(graph.cuts(graph.trace(model.module.eval(), model.inputs).graph))
    for position, cut in enumerate(recipe.parallel):
        if cut.pipeline > places + 1:
            raise PlanError(
                f"parallel[{position}]: pipeline={cut.pipeline} needs {cut.pipeline - 1} cuts, "
                f"the model has {places} places to cut; use at most {places + 1} stages"
            )
        if cut.tensor > 1:
            try:
                plan = tensor.plan_for(model.module, cut.slices)
                tensor.check_degree(model.module, plan, cut.tensor)
            except PlanError as error:
                raise PlanError(f"parallel[{position}]: {error}") from error
