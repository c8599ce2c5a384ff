"""From results and steps of the engine to responses and streams."""
