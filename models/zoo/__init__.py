"""The example models, made from scratch the same way each time: ``python -m models.zoo``.

Not here: anything that serving needs; this package is for trying, testing and load tests.
"""
