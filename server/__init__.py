"""HTTP: wire types, streams, errors, metrics. It talks to the engine and never sees a tensor."""
