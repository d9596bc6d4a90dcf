"""JobSets and TrainJobs as kinds that a server knows, made of the models that their projects publish for Python.

The server checks types and drops unknown fields by them, as it does by the projects' own definitions, which say more.
"""

from __future__ import annotations

from typing import Any, Protocol

from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob


class Model(Protocol):
    """A model of pydantic's."""

    @staticmethod
    def model_json_schema() -> dict[str, Any]: ...


def jobset() -> dict[str, Any]:
    return _definition("jobset.x-k8s.io", "v1alpha2", "JobSet", JobsetV1alpha2JobSet)


def trainjob() -> dict[str, Any]:
    return _definition("trainer.kubeflow.org", "v1alpha1", "TrainJob", TrainerV1alpha1TrainJob)


def _definition(group: str, version: str, kind: str, model: Model) -> dict[str, Any]:
    plural = f"{kind.lower()}s"
    whole = model.model_json_schema()
    schema = _structural(whole, whole["$defs"])
    schema["properties"]["metadata"] = {"type": "object"}  # the server knows it
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    names = {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [served]},
    }


def _structural(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A schema as the server takes it: nothing by reference, no choices but that of a number or a text."""
    if reference := schema.get("$ref"):
        return _structural(definitions[reference.rpartition("/")[2]], definitions)
    if choices := [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]:
        if {choice.get("type") for choice in choices} == {"integer", "number"}:
            return {"type": "number"}
        return _structural(choices[0], definitions) if len(choices) == 1 else {"x-kubernetes-int-or-string": True}
    properties = schema.get("properties", {})
    if "actual_instance" in properties:  # how the models write such a choice
        return {"x-kubernetes-int-or-string": True}
    made: dict[str, Any] = {"type": schema["type"]}
    if properties:
        made["properties"] = {name: _structural(inner, definitions) for name, inner in properties.items()}
        if "required" in schema:
            made["required"] = schema["required"]
    elif schema["type"] == "array":
        made["items"] = _structural(schema["items"], definitions)
    elif schema["type"] == "object":
        values = schema.get("additionalProperties")
        if isinstance(values, dict):
            made["additionalProperties"] = _structural(values, definitions)
        else:  # it may hold anything
            made["x-kubernetes-preserve-unknown-fields"] = True
    return made
