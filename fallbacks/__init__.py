"""What to answer when the model can't: one strategy a file, and the chain that orders them.

Empty until the protections of the request path arrive; it may import ``models``, never ``serving``.
"""
