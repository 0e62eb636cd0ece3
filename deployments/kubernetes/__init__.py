"""Headrace on Kubernetes: manifests for KubeRay, checked before a cluster sees them.

    overlay of k8s/ → kubectl kustomize → objects ─┐
    artifact, plan, image ─────────────────────────┴→ render → validate → one file per object

overlay.py      the k8s/ folder and kustomize       render.py   artifact, plan, image into objects
plan_file.py    `headrace plan --json`, read        sizes.py    pods large enough for a plan
image_names.py  grammar of image references         serving.py  serveConfigV2, written and read
pods.py         pods of an object, and selectors

manifest_yaml.py  YAML as kubectl and KubeRay's operator read it

validate.py     all checks, on all objects
schemas.py      fields and types                    derive_schemas.py  makes schemas.json.gz
rules.py        rules for one object                cross_rules.py     rules across objects

KubeRay's operator has further checks of its own. They are not repeated here: its webhook and its
events report them. rules.py repeats the few that depend on values which `render` computes.
"""
