"""The pack's nodes, one a file: sockets, widgets and tooltips over vega/ and images/; and what fills their lists."""
