"""How the whole node stands, for people: told anew each second while somebody looks, with or without a control plane."""
