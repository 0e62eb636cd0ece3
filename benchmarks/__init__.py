"""Side-by-side measurements of serving, on one machine in one run.

python -m benchmarks.serving

recipe → artifact ─→ in-process limit and reference answers
                  └→ each contender: start → ready → verify → warm up → load → stop
all rounds → medians → JSON, Markdown

serving.py      the command line and the rounds     artifact.py  builds or finds the artifact
one_round.py     one contender, once                 in_process.py  limit, reference answers
load.py         the load generator, wrk             verify.py    answers against the reference
startup.py      time to ready, compilers seen       proc.py      what /proc tells of a process
results.py      what was measured, medians          table.py     Markdown
machine.py      CPU and versions                    images.py    request bodies, calibration
contenders/     how each server is started          servers/     the servers' own code
"""
