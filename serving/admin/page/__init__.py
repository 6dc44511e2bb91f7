"""The live page at ``/admin``: how the node stands, for people, and the few things that they may do about it."""
