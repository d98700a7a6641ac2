"""Pictures on their way out of the host's server: as files in memory, on its websocket, and to be fetched again."""
