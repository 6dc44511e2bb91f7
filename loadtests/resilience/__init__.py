"""Steady load on a whole Holdfast while its parts are killed, hung, slowed and made to lie; one table of what held.

`python -m loadtests.resilience`. It starts the system as its users do and looks at it from outside: over HTTP, and at
its processes by pid. It imports none of the packages that it tries.
"""
