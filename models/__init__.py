"""What a model version is: tensors, signatures, manifests, the registry and the backends that run them.

Not here: anything about a request's way through the gateway (``serving``).
"""
