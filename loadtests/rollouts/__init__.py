"""Rollouts of good and bad versions on a whole Holdfast under load, and what their clients saw of it; one table.

`python -m loadtests.rollouts`. Load, client, system and processes are those of `loadtests.resilience`; like it, this
looks from outside and imports none of the packages that it tries.
"""
