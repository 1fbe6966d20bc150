"""The checks of `doctor`: each is one function that returns a Result."""
