"""All IO with the outside; vendors' errors become ours here."""
