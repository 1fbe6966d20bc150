"""From the waiting row to RunPod: claim, prepare, submit."""
