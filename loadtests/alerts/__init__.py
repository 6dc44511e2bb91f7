"""Alerts, rules and dashboards of `deploy/`, tried with a real Prometheus (Debian's package `prometheus`).

`python -m loadtests.alerts` has promtool test every rule, then runs every query of every dashboard against a system
that has a canary, a shadow and a cache. `python -m loadtests.alerts chaos` plays chaos scenarios and tells which alerts
fired.
"""
