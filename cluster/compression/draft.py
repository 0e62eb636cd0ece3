"""Artifact under construction: its folder and its manifest so far.

Draft.begin → weights, the model's files → update(programs, ...) → write → folder of an artifact

A finished build publishes its draft. A trial of a search times its draft's program and deletes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import save_file

from cluster.artifact.artifact import MANIFEST, WEIGHTS, describe
from cluster.artifact.manifest import Manifest
from cluster.compression.work import Job, Work
from cluster.config.sources import ImageInput, TextInput
from cluster.config.steps import Step


@dataclass(frozen=True)
class Draft:
    """Artifact of ``work`` in ``folder``, without reports."""

    work: Work
    folder: Path
    manifest: Manifest

    @staticmethod
    def begin(
        folder: Path,
        work: Work,
        job: Job,
        name: str,
        recipe_key: str,
        searched: Sequence[Step] = (),
    ) -> Draft:
        """Write the weights and the model's own files into ``folder``, an empty directory.

        ``searched``: steps that a search added to the recipe's own. The recipe in the manifest has
        these steps, the gate's limits for them, and no search: it describes the artifact, not how
        the search chose it.
        """
        recipe, model = job.recipe, job.model
        save_file(work.weights(), folder / WEIGHTS)
        for file, content in model.files.items():
            (folder / file).write_bytes(content)
        steps = [step.model_dump(mode="json") for step in (*recipe.steps, *searched)]
        gate = recipe.limits_for(searched).model_dump(mode="json")
        effective = recipe.model_dump(mode="json") | {"steps": steps, "search": None, "gate": gate}
        manifest = Manifest(
            name=name,
            recipe=effective,
            recipe_key=recipe_key,
            inputs=model.inputs,
            outputs=model.outputs,
            image=model.preprocess if isinstance(model.preprocess, ImageInput) else None,
            text=model.preprocess if isinstance(model.preprocess, TextInput) else None,
            labels=model.labels,
            activation=model.activation,
            max_batch_size=recipe.model.max_batch_size,
            files={},
            programs=(),
            quantized_operators=work.quantized_operators,
            metric=recipe.evaluation.metrics[0],
        )
        return Draft(work, folder, manifest)

    @property
    def expected(self) -> Path:
        """File with the answers that every program must reproduce, beside the folder.

        See :mod:`cluster.compression.evaluation.reference`.
        """
        return self.folder.with_name(f"{self.folder.name}.expected.npz")

    def update(self, **fields: object) -> Draft:
        """Return the draft with these manifest fields, without writing."""
        return replace(self, manifest=self.manifest.model_copy(update=fields))

    def write(self) -> Draft:
        """Write the manifest with the hash of every file in the folder; return the new draft."""
        files = {
            str(path.relative_to(self.folder)): describe(path)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        }
        draft = self.update(files=files)
        (self.folder / MANIFEST).write_bytes(draft.manifest.to_json())
        return draft
