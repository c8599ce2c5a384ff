"""The JSON of requests and responses. Plain data: these modules import no engine, model or tensor."""
