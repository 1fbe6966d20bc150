"""What keeps the process going: loops, readiness, watchdog, logs, metrics."""
