"""What people type about rollouts, and what they see of them. The command itself is ``serving.cli``."""
