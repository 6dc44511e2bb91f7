"""Backup and restore of what can't be made anew: the model registry, and what rollouts have decided."""
