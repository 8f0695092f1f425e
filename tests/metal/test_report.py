"""What metal/README.md claims of bytes and transactions, at the models' shapes."""

import pytest

from tests.metal.kernel_report import README, count, measure
from tests.metal.report_cases import Case, decode_cases, prefill_cases
from tests.metal.report_stock import run_stock
from tests.metal.roofline import roofline_table

ONCE = 1.05
"""How often a byte of weights, or of keys and values, may be loaded on average."""

TEXT = README.read_text(encoding="utf-8")


def _named(case: Case) -> str:
    return f"{case.name}, {case.shape}"


def _large(case: Case) -> bool:
    """Whether it takes seconds, and gigabytes for lm_head."""
    return "lm_head" in case.name or "of 128" in case.shape


DECODE = [
    pytest.param(case, id=_named(case), marks=[pytest.mark.slow] if _large(case) else []) for case in decode_cases()
]


@pytest.mark.parametrize("case", DECODE)
def test_decoding_loads_each_byte_of_weights_keys_and_values_once(case: Case):
    assert measure(case).repeats <= ONCE


@pytest.mark.parametrize("name", ["expert_gate_up", "expert_down"])
@pytest.mark.slow
def test_the_experts_take_fewer_transactions_than_mlx_s_own_kernel(name: str):
    case = next(case for case in decode_cases() if case.name == name)
    assert case.stock is not None
    _, launches, once = run_stock(case.stock)
    # Under half even of what MLX's would take if its short loads were merged (1.03 of 3.39 million).
    assert measure(case).transactions < 0.5 * count(launches, once).transactions * 1.03 / 3.39


@pytest.mark.slow
def test_two_tokens_load_their_experts_once_in_fewer_transactions_than_mlx_s_own_kernel():
    case = next(case for case in prefill_cases() if case.shape.startswith("2 tokens"))
    assert case.stock is not None
    _, launches, once = run_stock(case.stock)
    ours = measure(case)
    assert ours.repeats == 1
    # Even if the short loads of MLX were merged, as above.
    assert ours.transactions < 0.6 * count(launches, once).transactions * 1.03 / 3.39


@pytest.mark.slow
def test_attention_over_8192_keys_reads_them_once_and_mlx_s_own_eight_times():
    case = next(case for case in decode_cases() if "8,192" in case.shape)
    assert case.stock is not None
    _, launches, once = run_stock(case.stock)
    assert measure(case).repeats <= ONCE
    assert count(launches, once).repeats == pytest.approx(8.0)


def test_every_case_has_its_row_in_the_readme():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    for case in [*decode_cases(), *prefill_cases()]:
        assert sum(row.startswith(f"| {case.name} | {case.shape} |") for row in rows) == 1


def test_the_roofline_is_the_computed_one():
    assert roofline_table() in TEXT
