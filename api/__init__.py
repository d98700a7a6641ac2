"""The HTTP API under /v1 in the host's server: the contract of Segmind's hosted API, drawn through the host's own queue."""
