"""Masks of prompts: several of each, of another extent, or the one of a prompt that leaves no choice."""

from __future__ import annotations

from typing import Any

from precast.runtime import arguments
from precast.runtime.artifact import Artifact
from precast.runtime.errors import ArtifactError, listing
from precast.runtime.fields import Fields, is_text
from precast.runtime.flow import Flow
from precast.runtime.model import Model, Outputs

__all__ = ["PromptedModel"]


class PromptedModel(Model):
    """A model that gives several masks for each prompt; made by `precast.load`."""

    def __init__(self, artifact: Artifact, flow: Flow) -> None:
        super().__init__(artifact, flow)
        fields = Fields(dict(artifact.reading("prompts")), "processing.prompts")
        self._single: dict[str, str] = fields.take("alone", "names of outputs by names of outputs", _is_names)
        fields.close()
        lacking = {*self._single, *self._single.values()} - set(self.output_names)
        if lacking:
            raise ArtifactError(
                f"{artifact.path} names {listing(sorted(lacking))} in processing.prompts, which its components have "
                "not. Export it again."
            )
        self.output_names = tuple(name for name in self.output_names if name not in self._single.values())

    def __call__(self, *positional: Any, multimask_output: bool = True, **inputs: Any) -> Outputs:
        """``multimask_output``: False is one mask for each prompt: the best where it leaves no choice, such as several
        points or a box.

        Raises:
            InputError: as of any model, or it is neither True nor False.
        """
        several = arguments.flag("multimask_output", multimask_output)
        made = super().__call__(*positional, **inputs)
        for name, alone in self._single.items():
            if alone in made:
                single = made.pop(alone)
                if not several:
                    made[name] = single
        return made


def _is_names(value: Any) -> bool:
    return isinstance(value, dict) and all(is_text(name) for name in value.values())
