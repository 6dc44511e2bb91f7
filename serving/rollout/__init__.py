"""The control plane: decides what is served and tells the gateways. The data plane never imports it."""
