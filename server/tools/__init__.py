"""Calls of tools: how a model reads and writes them, and what of that is asked for."""
