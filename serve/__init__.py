"""The HTTP API on many GPUs and machines, by Ray Serve: the same contract and keys as one server's."""
