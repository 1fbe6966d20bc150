"""The commands of `python -m worker`, one file for each; they only call other packages."""
