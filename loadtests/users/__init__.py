"""Locust users that speak the Open Inference Protocol, as a program of its own: `python -m loadtests.users PLAN`.

Each request is due at its own moment, whether those before it were answered or not, and its latency counts from there.
"""
