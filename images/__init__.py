"""Images on their way into and out of the host's server: decoded, encoded, delivered, and kept to be fetched."""
