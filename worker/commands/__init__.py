"""The commands of `python -m worker`, one file for each family; thin, with the work elsewhere."""
