"""Who has closed a connection looks like who has closed one half and waits, until something is sent: here and in serve/."""

CLIENT_CLOSED_REQUEST = 499  # nginx's status of requests whose client has gone away
LOOKS_AGAIN = 0.3  # seconds between two tries to find out
STILL_HERE = b"HTTP/1.1 100 Continue\r\n\r\n"  # which a client may always get, and passes over
