"""Each operation of the model against its formula, written out once more in float64 loops or plain algebra.

Tolerances: 2e-6 relative for float32 sums of a few dozen terms; 1e-2 for bfloat16, whose steps are 2^-8.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgbatch.engine import kernels
from dgbatch.engine.kernels.reference import plain as reference

ROWS = [1, 2, 3, 8, 17]
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def close(ours: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(ours.double(), exact.double(), **TOLERANCE)


def angles(positions: Tensor, head_dim: int, theta: float, pairs: int) -> tuple[Tensor, Tensor]:
    return reference.rope_angles(positions, reference.rope_frequencies(head_dim, theta, pairs))


def test_callers_find_every_operation_under_one_name() -> None:
    for name in kernels.__all__:
        assert getattr(kernels, name) is getattr(reference, name)


@pytest.mark.parametrize("rows", ROWS)
def test_rms_norm_divides_by_the_root_of_the_mean_square_and_multiplies_by_w(rows: int) -> None:
    x, w = random(rows, 33) * 5, random(33, seed=1)
    root = (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    close(reference.rms_norm(x, w, 1e-6), x.double() / root * w.double())
    close(reference.rms_norm(x, None, 1e-6), x.double() / root)


def test_rms_norm_of_zero_is_zero_and_eps_holds_small_rows_down() -> None:
    assert reference.rms_norm(torch.zeros(2, 8), torch.ones(8), 1e-6).abs().max() == 0
    close(reference.rms_norm(torch.full((1, 4), 1e-3), None, 1e-6), torch.full((1, 4), 2**-0.5))


def test_rms_norm_of_bfloat16_is_computed_in_float32_and_rounded_once() -> None:
    x, w = random(3, 64).bfloat16(), random(64, seed=1).bfloat16()
    ours = reference.rms_norm(x, w, 1e-6)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, reference.rms_norm(x.float(), w.float(), 1e-6).bfloat16())


@pytest.mark.parametrize("rows", ROWS)
def test_add_rms_norm_adds_a_normed_branch_to_the_residual(rows: int) -> None:
    x, branch, w = random(rows, 33), random(rows, 33, seed=1) * 4, random(33, seed=2)
    normed = branch.double() / (branch.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * w.double()
    close(reference.add_rms_norm(x, branch, w, 1e-6), x.double() + normed)


def test_add_rms_norm_of_bfloat16_rounds_the_norm_before_it_adds() -> None:
    x, branch, w = (tensor.bfloat16() for tensor in (random(3, 64), random(3, 64, seed=1), random(64, seed=2)))
    assert torch.equal(reference.add_rms_norm(x, branch, w, 1e-6), x + reference.rms_norm(branch, w, 1e-6))


@pytest.mark.parametrize(("head_dim", "theta", "pairs"), [(256, 1e4, 128), (512, 1e6, 64), (8, 1e4, 4), (16, 1e6, 2)])
def test_rope_angles_use_the_whole_head_size_and_leave_later_pairs_alone(
    head_dim: int, theta: float, pairs: int
) -> None:
    positions = torch.tensor([0, 1, 7, 1000])
    cos, sin = angles(positions, head_dim, theta, pairs)
    assert cos.shape == sin.shape == (4, head_dim)
    for row, position in enumerate(positions.tolist()):
        for i in (0, 1, pairs - 1, head_dim // 2 - 1):
            angle = position * theta ** (-2 * i / head_dim) if i < pairs else 0.0
            for column in (i, i + head_dim // 2):
                assert cos[row, column].item() == pytest.approx(math.cos(angle), abs=1e-4)  # float32 angle of 1000
                assert sin[row, column].item() == pytest.approx(math.sin(angle), abs=1e-4)


def test_rope_turns_each_pair_by_its_angle() -> None:
    x = random(5, 3, 8)
    cos, sin = angles(torch.arange(5), 8, 100.0, 3)
    turned = reference.rope(x, cos, sin)
    for i in range(4):
        number = torch.complex(x[..., i].double(), x[..., i + 4].double())
        angle = torch.arange(5).double() * (100.0 ** (-2 * i / 8) if i < 3 else 0.0)
        expected = number * torch.polar(torch.ones(5).double(), angle)[:, None]
        close(turned[..., i], expected.real)
        close(turned[..., i + 4], expected.imag)


@given(shift=st.integers(0, 500))
def test_scores_depend_on_distance_alone(shift: int) -> None:
    q, k = random(1, 1, 16), random(1, 1, 16, seed=9)

    def score(row: int, key: int) -> float:
        parts = [reference.rope(x, *angles(torch.tensor([p]), 16, 1e4, 8)) for x, p in ((q, row), (k, key))]
        return (parts[0] * parts[1]).sum().item()

    assert score(5 + shift, 2 + shift) == pytest.approx(score(5, 2), abs=2e-3)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_an_unscaled_softmax_over_the_keys_a_row_may_see(kv_heads: int, masked: bool) -> None:
    rows, keys, heads, size = 5, 7, 4, 8
    q, k, v = random(rows, heads, size), random(keys, kv_heads, size, seed=1), random(keys, kv_heads, size, seed=2)
    mask = torch.arange(keys) <= torch.arange(rows)[:, None] + 1 if masked else None
    ours = reference.attention(q, k, v, mask)
    for row in range(rows):
        seen = mask[row] if mask is not None else torch.ones(keys, dtype=torch.bool)
        for head in range(heads):
            group = head // (heads // kv_heads)
            scores = k[seen, group].double() @ q[row, head].double()
            close(ours[row, head], scores.softmax(0) @ v[seen, group].double())


def test_attention_of_a_batch_is_that_of_each_alone() -> None:
    q, k, v = random(3, 5, 4, 8), random(3, 6, 2, 8, seed=1), random(3, 6, 2, 8, seed=2)
    together = reference.attention(q, k, v)
    for index in range(3):
        close(together[index], reference.attention(q[index], k[index], v[index]))


@pytest.mark.parametrize("own", [False, True], ids=["one mask for all", "a mask each"])
def test_masks_of_a_batch_go_with_their_rows(own: bool) -> None:
    """Two leading axes, and groups of three: a mask that met another group, row or batch would show."""
    q, k, v = random(2, 3, 5, 6, 8), random(2, 3, 7, 2, 8, seed=1), random(2, 3, 7, 2, 8, seed=2)
    mask = torch.rand(*((2, 3) if own else ()), 5, 7, generator=torch.Generator().manual_seed(4)) < 0.5
    mask[..., 0] = True
    together = reference.attention(q, k, v, mask)
    assert together.shape == q.shape
    for index in [(a, b) for a in range(2) for b in range(3)]:
        close(together[index], reference.attention(q[index], k[index], v[index], mask[index] if own else mask))


@pytest.mark.parametrize("rows", ROWS)
def test_gated_mlp_multiplies_gelu_of_gate_by_up(rows: int) -> None:
    x, gate, up, down = random(rows, 12), random(20, 12, seed=1), random(20, 12, seed=2), random(12, 20, seed=3)
    wide = [tensor.double() for tensor in (x, gate, up, down)]
    exact = (gelu_tanh(wide[0] @ wide[1].T) * (wide[0] @ wide[2].T)) @ wide[3].T
    torch.testing.assert_close(reference.gated_mlp(x, gate, up, down).double(), exact, atol=1e-4, rtol=1e-5)


def test_router_picks_the_likeliest_experts_and_shares_one_among_them_before_their_scales() -> None:
    x, proj, scale, own = random(9, 16) * 3, random(6, 16, seed=1), random(16, seed=2), random(6, seed=3)
    weights, index = reference.route(reference.rms_norm(x, None, 1e-6), proj, scale, own, 2)
    assert weights.dtype == torch.float32
    for row in range(9):
        wide = x[row].double()
        normed = wide / (wide.square().mean() + 1e-6).sqrt() * scale.double() / 16**0.5
        p = (proj.double() @ normed).softmax(0)
        best = p.argsort(descending=True)[:2]
        assert index[row].tolist() == best.tolist()
        close(weights[row], p[best] / p[best].sum() * own[best].double())


def experts_exact(x: Tensor, weights: Tensor, index: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    x, weights, gate_up, down = (tensor.double() for tensor in (x, weights, gate_up, down))
    out = torch.zeros_like(x)
    for row in range(len(x)):
        for slot in range(index.shape[1]):
            expert = index[row, slot]
            gate, up = (gate_up[expert] @ x[row]).chunk(2)
            out[row] += weights[row, slot] * (down[expert] @ (gelu_tanh(gate) * up))
    return out


@st.composite
def expert_calls(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, count = draw(st.sampled_from(ROWS)), draw(st.integers(1, 12))
    chosen, seed = draw(st.integers(1, min(4, count))), draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    crowd = draw(st.integers(chosen, count))  # experts past these receive no row
    index = torch.rand(rows, crowd, generator=generator).argsort(-1)[:, :chosen]
    x, weights = torch.randn(rows, 10, generator=generator), torch.rand(rows, chosen, generator=generator)
    gate_up = torch.randn(count, 14, 10, generator=generator) / 3
    return x, weights, index, gate_up, torch.randn(count, 10, 7, generator=generator) / 3


@settings(max_examples=40)
@given(call=expert_calls())
def test_experts_add_up_what_each_chosen_one_makes_of_a_row(call: tuple[Tensor, ...]) -> None:
    exact = experts_exact(*call)
    torch.testing.assert_close(reference.experts(*call).double(), exact, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(reference.experts(*call).double(), exact, atol=1e-5, rtol=1e-4)


@settings(max_examples=30)
@given(call=expert_calls(), seed=st.integers(0, 99))
def test_experts_without_a_gradient_do_not_depend_on_the_order_of_the_rows(call: tuple[Tensor, ...], seed: int) -> None:
    x, weights, index, *matrices = call
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        out = reference.experts(x, weights, index, *matrices)
        again = reference.experts(x[order], weights[order], index[order], *matrices)
    torch.testing.assert_close(again, out[order], atol=1e-6, rtol=1e-5)  # to the bit only where a rehearsal held


def test_experts_have_a_gradient_where_one_is_wanted() -> None:
    index, weights = torch.tensor([[0, 2], [1, 0]]), random(2, 2).abs()
    x, gate_up, down = random(2, 8), random(3, 12, 8) / 3, random(3, 8, 6) / 3
    call = [tensor.double().requires_grad_() for tensor in (x, gate_up, down)]
    assert torch.autograd.gradcheck(
        lambda x, gate_up, down: reference.experts(x, weights.double(), index, gate_up, down), call
    )


@pytest.mark.parametrize("shape", [(1, 1), (3, 16), (5, 33)])
def test_gelu_gate_is_the_same_with_and_without_a_gradient(shape: tuple[int, int]) -> None:
    """Written out for CPUs, and torch's own; -30 and 30 are where a sigmoid is 0 and 1."""
    gate, up = random(*shape) * 4, random(*shape, seed=1)
    gate[0, 0] = -30.0
    gate[-1, -1] = 30.0
    exact = gelu_tanh(gate.double()) * up.double()
    close(reference.gelu_gate(gate, up), exact)
    with torch.no_grad():
        close(reference.gelu_gate(gate, up), exact)
        assert reference.gelu_gate(gate.bfloat16(), up.bfloat16()).dtype == torch.bfloat16


def test_experts_keep_the_rows_dtype() -> None:
    index = torch.tensor([[0, 2], [1, 0], [2, 1]])
    call = random(3, 8), random(3, 2).abs(), index, random(3, 12, 8) / 3, random(3, 8, 6) / 3
    exact = experts_exact(*call)
    x, weights, index, gate_up, down = call
    narrow = x.bfloat16(), weights, index, gate_up.bfloat16(), down.bfloat16()
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            ours = reference.experts(*narrow)
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), exact, atol=5e-2, rtol=5e-2)


def test_softcap_bounds_the_logits_and_leaves_small_ones_alone() -> None:
    logits = torch.tensor([0.0, 0.01, 15.0, -40.0, 1e4])
    close(reference.softcap(logits, 30.0), 30 * torch.tanh(logits.double() / 30))
    assert reference.softcap(logits.bfloat16(), 30.0).dtype == torch.float32
    assert reference.softcap(logits, 30.0).abs().max() <= 30


def test_soft_embeddings_are_the_mean_embedding_under_the_probabilities() -> None:
    p, embedding = (random(2, 3, 40) * 4).softmax(-1), random(40, 8, seed=1)
    close(reference.soft_embeddings(p, embedding), p.double() @ embedding.double())
    sure = torch.zeros(1, 1, 40)
    sure[..., 7] = 1.0
    assert torch.equal(reference.soft_embeddings(sure, embedding)[0, 0], embedding[7])


def test_soft_embeddings_round_the_probabilities_to_the_embeddings_dtype() -> None:
    """Before the product: 0.5015 and 0.4985 are 0.5 and 0.498047 in bfloat16, whose difference is not 0.003."""
    ours = reference.soft_embeddings(torch.tensor([[0.5015, 0.4985]]), torch.tensor([[1.0], [-1.0]]).bfloat16())
    assert ours.dtype == torch.bfloat16
    assert ours.item() == 0.001953125
