"""Headrace on Kubernetes: what KubeRay is given, and checking it before a cluster sees it.

    overlay of k8s/ → kubectl kustomize → objects ─┐
    artifact, plan, image ─────────────────────────┴→ render → validate → one file per object

overlay.py    the k8s/ folder and kustomize          render.py    model, plan and image into objects
sizes.py      pods large enough for a plan           validate.py  every check below, on all objects
structure.py  fields and types, by schemas.json.gz   rules.py     what KubeRay's and Kubernetes' own
schemas.py    makes that file from the CRDs                       code asks, own_rules.py what
                                                                  Headrace asks
"""
