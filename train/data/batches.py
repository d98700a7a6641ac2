"""Which pictures make up which batch: a function of the seed and the batch's number alone, so that a run can be resumed."""

from functools import lru_cache

import numpy as np


class Batches:
    """Batches of one bucket each, every picture as often an epoch as its repeats say, in a new order in each epoch.

    A bucket whose pictures do not fill its last batch fills it with some of them once more: none is left out.
    """

    def __init__(self, buckets: list[tuple[int, int]], repeats: list[int], batch_size: int, seed: int):
        """buckets and repeats are those of each picture."""
        self.batch_size, self.seed = batch_size, seed
        self.of_bucket: dict[tuple[int, int], list[int]] = {}
        for picture, (bucket, times) in enumerate(zip(buckets, repeats, strict=True)):
            self.of_bucket.setdefault(bucket, []).extend([picture] * times)
        self.an_epoch = sum(-(-len(pictures) // batch_size) for pictures in self.of_bucket.values())
        self.epoch = lru_cache(2)(self.epoch)

    def __call__(self, number: int) -> list[int]:
        """The pictures of a batch."""
        epoch, place = divmod(number, self.an_epoch)
        return self.epoch(epoch)[place]

    def epoch(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        batches = []
        for bucket in sorted(self.of_bucket):
            order = rng.permutation(self.of_bucket[bucket]).tolist()
            order += [order[i % len(order)] for i in range(-len(order) % self.batch_size)]
            batches += [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]
