"""What operators see: metrics, traces, logs and access."""
