"""Local stand-ins for the services the worker talks to; never imported by the worker."""
