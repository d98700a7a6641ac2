"""The pack's nodes: sockets, widgets and tooltips over vega/."""
