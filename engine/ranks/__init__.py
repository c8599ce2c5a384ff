"""The processes that hold parts of one network. Rank 0 runs the engine; the others do what it tells them."""
