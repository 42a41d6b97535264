"""Run folders, checkpoints, locks, the metrics log."""
