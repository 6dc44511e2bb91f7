"""Traffic that is mirrored to a version nobody waits for, and how its answers compare."""
