"""The way out: a row is claimed, checked, planned, recorded as submission and sent to RunPod."""
