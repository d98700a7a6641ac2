"""Pictures and captions in every layout that people keep them in, and what of them can be trained on."""
