"""A client that has closed its connection and one that has only half-closed it look alike until something is sent."""

CLIENT_CLOSED_REQUEST = 499  # nginx's status of requests whose client has gone away
PROBE_INTERVAL_SECONDS = 0.3
PROBE_RESPONSE = b"HTTP/1.1 100 Continue\r\n\r\n"  # an interim response, which a client may get at any time and skips
