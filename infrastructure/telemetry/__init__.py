"""What the project says of itself: log lines, metrics and traces. Nothing is configured by importing it."""
