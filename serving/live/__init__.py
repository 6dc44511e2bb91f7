"""How the whole node stands, for people: told anew each second while somebody looks, control plane or not."""
