"""Whether this machine is fit for Holdfast: facts are looked up by probes, and judged by plain functions."""
