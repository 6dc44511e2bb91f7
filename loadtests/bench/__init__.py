"""Side-by-side benchmark of Holdfast and other model servers: every system in one run, on one machine, over loopback.

`python -m loadtests.bench setup|run|hit|report`. It starts processes and talks over the wire; it imports none of the
packages it measures.
"""
