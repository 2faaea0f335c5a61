from __future__ import annotations

import pytest
import torch
from torch import nn

from dgbatch.demo.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 48, 128), (2, 128, 48)])
def test_singular_values_go_to_about_one_and_directions_stay(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 5
    found = orthogonal(matrices)
    values = torch.linalg.svdvals(found)
    assert values.max() < 1.3
    assert values.quantile(0.05) > 0.3  # the tiniest of a random matrix stay behind
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    assert (found * (u @ v)).sum((-2, -1)).min() > 0.7 * min(shape[1:])  # close to the nearest orthogonal matrix


def test_a_stack_of_matrices_steps_as_the_matrices_alone_do() -> None:
    values = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
    stack, alone = nn.Parameter(values.clone()), [nn.Parameter(matrix.clone()) for matrix in values]
    optimizers = [Muon([stack], lr=0.1, weight_decay=0.1), Muon(alone, lr=0.1, weight_decay=0.1)]
    for _ in range(3):
        stack.grad = stack.detach().sin()
        for parameter in alone:
            parameter.grad = parameter.detach().sin()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(stack.detach(), torch.stack([parameter.detach() for parameter in alone]))
    assert not torch.equal(stack.detach(), values)


def test_it_finds_a_matrix_by_its_products() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted, weight = torch.randn(16, 16, generator=generator), nn.Parameter(torch.zeros(16, 16))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.0)
    for step in range(200):
        x = torch.randn(64, 16, generator=generator)
        loss = (x @ (weight - wanted).T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / 200)
        optimizer.step()
    assert loss.item() < 1e-2
