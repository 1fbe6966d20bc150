"""Attacks on the availability of a real daemon, while honest jobs of other users come in."""
