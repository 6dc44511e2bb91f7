"""The Ray Serve deployments: gateways, model replicas, HAProxy's keeper, and the control plane.

Only this package and ``serving.app`` import ray. Each class is a thin shell around parts that know nothing of it. Most
of these parts are imported where they are used: metrics are opened first (``serving.metrics``), and who only names a
deployment doesn't load what it is made of. For the same reason nothing is imported here.
"""
