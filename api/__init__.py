"""What the pack adds to the host's server: pictures on its websocket, and a route to fetch them again."""
