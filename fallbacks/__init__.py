"""What to answer when the model can't: one strategy a file, and the chain that orders them.

It may import ``models``, never ``serving``: whatever has to be asked is handed in.
"""
