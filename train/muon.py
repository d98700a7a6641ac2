"""Muon for the matrices of a model, AdamW for the rest (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

torch.optim.Muon takes no convolutions and works in bfloat16, which CPUs without AVX512 emulate fifty times slower.
"""

import torch
from torch import nn

MOMENTUM = 0.95
# The quintic iteration that pulls singular values towards 1 fastest, from the post above.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalized(matrices: torch.Tensor) -> torch.Tensor:
    """[N, rows, columns] with all singular values of each matrix made about 1."""
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.AdamW):
    """Muon for a module's hidden matrices and convolutions, AdamW for its first and last layers, biases and norms.

    What requires no gradient is left alone.
    """

    def __init__(self, module: nn.Module, matrix_lr: float, lr: float, weight_decay: float = 0.0):
        learned = [p for p in module.parameters() if p.requires_grad]
        hidden = [p for p in learned if p.ndim > 1 and min(p.shape[:2]) > 4]
        others = [p for p in learned if p.ndim < 2 or min(p.shape[:2]) <= 4]
        groups = [
            {"params": hidden, "matrices": True, "lr": matrix_lr, "weight_decay": weight_decay},
            {"params": others, "matrices": False, "lr": lr, "weight_decay": 0.0},
        ]
        super().__init__(groups, betas=(0.9, 0.99))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if group["matrices"]:
                self.step_matrices(group)
        return super().step(closure)

    def step_matrices(self, group) -> None:
        alike = {}
        for p in group["params"]:
            state = self.state[p]
            momentum = state.setdefault("momentum", torch.zeros_like(p))
            state.setdefault("step", torch.zeros(()))  # AdamW, loading a state, looks for it
            momentum.lerp_(p.grad, 1 - MOMENTUM)
            alike.setdefault(p.flatten(1).shape, []).append((p, p.grad.lerp(momentum, MOMENTUM).flatten(1)))
            p.grad = None  # AdamW passes it over
        for shape, pairs in alike.items():
            updates = orthogonalized(torch.stack([update for _, update in pairs]))
            # The factor gives an update the size that AdamW's would have, so that one learning rate suits both.
            size = group["lr"] * 0.2 * max(shape) ** 0.5
            for (p, _), update in zip(pairs, updates, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.view_as(p), alpha=size)
