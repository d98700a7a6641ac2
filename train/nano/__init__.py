"""What is for vega-nano alone: its data set, the shapes of its models, its evaluation. `python -m train.nano` runs it."""
