"""The numbers of the evaluation: attribute accuracy with its confidence interval, Frechet distance, diversity."""

import torch


def accuracy(hits: torch.Tensor) -> tuple[float, float]:
    """Mean of [prompts, attributes] hits and the half width of its 95 % interval, prompts being independent."""
    of_prompts = hits.float().mean(1)
    return of_prompts.mean().item(), (1.96 * of_prompts.std() / len(of_prompts) ** 0.5).item()


def chance(truth: torch.Tensor) -> float:
    """The accuracy of one [prompts, attributes] label of the set held against another one, drawn at random."""
    shares = [torch.bincount(column).float() / len(truth) for column in truth.T]
    return torch.stack([share.square().sum() for share in shares]).mean().item()


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Frechet distance of Gaussians fitted to two [N, D] sets of features (Heusel et al. 2017, arXiv 1706.08500)."""
    a, b = a.double(), b.double()
    covariances = torch.cov(a.T), torch.cov(b.T)
    root = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + sum(c.trace() for c in covariances) - 2 * root).item()


def mean_pairwise_distance(features: torch.Tensor) -> float:
    """Mean distance of all pairs within [N, D] features."""
    return torch.pdist(features).mean().item()
