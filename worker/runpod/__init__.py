"""RunPod's job API over HTTP."""
