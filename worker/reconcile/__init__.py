"""Makes rows agree with runs: poll, decide, write, act."""
