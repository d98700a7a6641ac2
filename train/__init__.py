"""Training. `python -m train` trains on people's own pictures; train/nano makes the embedded model, vega-nano."""
