"""The Open Inference Protocol v2 over HTTP: wire forms to tensors and back, and the only place with status codes.

Pure: bytes in, values out. Not here: listening and routing (``serving.ingress``), and what happens to a decoded
request (``serving.request``).
"""
