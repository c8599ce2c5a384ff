"""The JSON that comes in and goes out. Plain data: nothing here knows the engine, a model or a tensor."""
