"""What a compression job makes and a replica serves: one content-addressed directory.

manifest.json        typed and versioned; names every other file with its sha256
weights.safetensors  the compressed model's tensors: canonical
programs/...         compiled from them: derived, native, loaded only when the hash agrees
report.json          what was measured, beside the baseline

manifest.py   the schema                artifact.py   one opened artifact, files checked
store.py      where artifacts are kept  local.py      in a directory
workspace.py  where one is built        remote.py     behind an fsspec URI, cached in a directory
signature.py  who vouches for one       served.py     opened for serving, signature checked
references.py what stands for one       printable.py  its texts, fit for a log or a terminal
"""
