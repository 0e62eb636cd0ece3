"""Artifacts: content-addressed directories that a compression job creates and a replica serves.

manifest.json        typed and versioned; names every other file with its sha256
weights.safetensors  the compressed model's tensors: canonical
programs/...         compiled from them: derived, native, loaded only if the hash matches
report.json          measurements, beside the baseline's

manifest.py   the schema                artifact.py   one opened artifact, files checked
store.py      stores                    local.py      a store in a directory
workspace.py  build directories         remote.py     behind an fsspec URI, cached in a directory
signature.py  signatures of an id       served.py     opened for serving, signature checked
references.py names and ids             printable.py  escaped texts for logs and terminals
"""
