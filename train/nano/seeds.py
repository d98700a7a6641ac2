"""The ranges of picture and batch numbers that stages draw from, so that none of them sees another's data.

A picture's number decides its scene, its shapes and its caption. Stages that learn from overlapping numbers would be
scored on what they were trained on.
"""

SHARPENING = 10**7  # crops of the autoencoder's second training; its fixed samples are at twice that
CONTINUED_TRAINING = 10**8  # batches of the base's second training and of the teacher's; the student's at twice that
CLASSIFIER = 10**9  # pictures that the attribute classifier learns from
EVALUATION = 2 * 10**9  # real pictures of held-out scenes
EVALUATION_REFERENCE = 3 * 10**9  # other pictures of the same scenes, to measure distances to
