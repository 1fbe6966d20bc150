"""Inputs: fetched, decoded, checked, and passed on to the GPU worker."""
