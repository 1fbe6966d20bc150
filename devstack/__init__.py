"""Local stand-ins for the services that the worker uses; never imported by the worker."""
