"""The HTTP API in the host's server: /v1 and /v2 as Segmind's hosted API has them, executed through the host's own queue."""
