"""What a compression job makes and a replica serves: one content-addressed directory.

manifest.json        typed and versioned; names every other file with its sha256
weights.safetensors  the compressed model's tensors: canonical
programs/...         compiled from them: derived, native, loaded only when the hash agrees
report.json          what was measured, beside the baseline

manifest.py   the schema            artifact.py   one opened artifact, files checked
store.py      a directory of them   remote.py     the same behind an fsspec URI
workspace.py  where one is built, by one process at a time
"""
