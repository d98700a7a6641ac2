"""`python -m train` in float64, in which sums in another order are the same to many digits."""

import torch

from train import training_run
from train.__main__ import main
from train.examples import Examples


class DoubleExamples(Examples):
    def __call__(self, number):
        batch = super().__call__(number)
        return batch._replace(latents=batch.latents.double(), noise=batch.noise.double())


if __name__ == "__main__":
    training_run.DTYPES["no"] = torch.float64
    training_run.Examples = DoubleExamples
    main()
