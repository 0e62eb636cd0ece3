"""Load on a server, and checks before it.

startup.py      from the start command to the first 200; compilers that run meanwhile
verify.py       answers against the reference, alone and all at once
wrk.py          the load generator wrk with post.lua → Load → figures
closed_loop.py  a slower loop that keeps every answer
"""
