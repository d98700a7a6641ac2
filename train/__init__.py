"""Making models: vega-nano from nothing, and LCM-LoRAs for any SDXL-family checkpoint."""
