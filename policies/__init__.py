"""Learned schedulers: their network, their training, and the adapter through which an engine uses them by name."""
