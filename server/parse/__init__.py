"""From a body to an engine request, or to an error that names the field."""
