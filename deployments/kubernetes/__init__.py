"""Headrace on Kubernetes: what KubeRay is given, and checking it before a cluster sees it.

    overlay of k8s/ → kubectl kustomize → objects ─┐
    artifact, plan, image ─────────────────────────┴→ render → validate → one file per object

overlay.py    the k8s/ folder and kustomize          render.py     model, plan, image into objects
plan_file.py  `headrace plan --json`, read strictly  sizes.py      pods large enough for a plan
images.py     how an image may be named              stores.py     which stores pods can reach
pods.py       the pods that an object brings         selectors.py  which of them a selector names
serving.py    serveConfigV2: written, and read for the pods that have a replica

validate.py   every check below, on all objects
structure.py  fields and types, by schemas.json.gz   schemas.py    makes that file from the CRDs
rules.py      what KubeRay's and Kubernetes' own code asks of an object
own_rules.py  what Headrace asks of an object        together.py   ... of several together
"""
