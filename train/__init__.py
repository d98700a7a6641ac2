"""Training. The modules here serve every SDXL-family checkpoint; train/nano makes the embedded model, vega-nano."""
