"""The tensor channel between a gateway and a model replica, and the Serve handle as its safety net."""
