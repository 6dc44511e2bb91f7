"""Chaos from files: load, faults at moments that a seed decides, and a verdict on every promise.

`python -m loadtests.chaos run NAME`. It starts the system as its users do and looks at it from outside: over HTTP, and
at its processes by pid. It imports none of the packages that it tries. The load is `loadtests.users`, a process of its
own.
"""
