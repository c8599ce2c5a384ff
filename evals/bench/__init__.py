"""`unmask bench`: how fast the engine is, offline and over HTTP, against LLaDA's published loop and the machine."""
