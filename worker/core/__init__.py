"""Pure decisions: no IO, no clock, no environment, only the standard library."""
