"""Artifact under construction: its folder and its manifest so far.

Draft.begin → weights, the model's files → update(programs, ...) → write → folder of an artifact

A finished build publishes its draft. A trial of a search times its draft's program and deletes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from cluster.artifact.artifact import MANIFEST, WEIGHTS, describe
from cluster.artifact.manifest import Manifest
from cluster.compression.equivalence import outputs_of
from cluster.compression.evaluation import reference
from cluster.compression.evaluation.reference import Outputs
from cluster.compression.probes import Probes
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

    def outputs_of(self, key: str) -> Outputs:
        """Return the files of outputs of the program ``key``, beside the folder."""
        name = f"{self.folder.name}.{key.replace('/', '.')}"
        return Outputs(
            expected=self.folder.with_name(f"{name}.expected.npz"),
            computed=self.folder.with_name(f"{name}.computed.npz"),
        )

    def record_expected(
        self, key: str, module: torch.nn.Module, probes: Probes, most: float = float("inf")
    ) -> Outputs:
        """Write the outputs of ``module``, from which the program ``key`` is made.

        Return the program's files. ``most``: maximum of the difference's limit.
        """
        files = self.outputs_of(key)
        files.computed.unlink(missing_ok=True)  # of another model under this name
        limit = reference.limit_of(self.work.scheme, key.partition("/")[0])
        reference.record(outputs_of(module, probes), probes, min(limit, most), files.expected)
        return files

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
