"""Inputs: fetched, decoded, checked, and handed on to the GPU."""
