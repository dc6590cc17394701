"""Products in the way that was fastest when tried: torch's bits, whatever the way."""

import pytest
import torch

from caption.engine import cublaslt, products
from caption.engine.cublaslt import Shape

COLUMNS, INNER = 768, 192
# More than a way was tried with, and not a multiple of any tile; and fewer than are worth one.
ROWS = (products.MANY + 8, products.SOME, 3)


def operands(rows: int, dtype=torch.float16, device="cuda") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    shapes = ((rows, INNER), (COLUMNS, INNER), (COLUMNS,), (rows, COLUMNS))
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def made(kind: str, states, weight, bias, total) -> torch.Tensor:
    if "added" in kind:
        return products.add_linear(total.clone(), states, weight, bias if kind == "added bias" else None)
    if kind == "gelu":
        return products.linear_gelu(states, weight, bias)
    return products.linear(states[None], weight, bias if kind == "bias" else None)[0]


def expected(kind: str, states, weight, bias, total) -> torch.Tensor:
    if kind == "added":
        return torch.addmm(total, states, weight.t())
    if kind == "added bias":
        return total + torch.nn.functional.linear(states, weight, bias)
    if kind == "gelu":
        return torch._addmm_activation(bias, states, weight.t(), use_gelu=True)
    return torch.nn.functional.linear(states, weight, bias if kind == "bias" else None)


@pytest.fixture
def untried(monkeypatch, tmp_path):
    """Nothing is chosen yet, nor kept from before."""
    monkeypatch.setattr(products, "_chosen", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", cublaslt.EPILOGUES)
def test_every_way_of_a_product_makes_the_bits_of_torch(kind, dtype, untried):
    product = cublaslt.Product(Shape(kind, COLUMNS, INNER, dtype), torch.device("cuda", 0))
    for rows in ROWS[:2]:
        given = operands(rows, dtype)
        for way in product.ways(rows):
            products._chosen[given[0].device, product.shape] = product, way
            assert torch.equal(made(kind, *given), expected(kind, *given))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", cublaslt.EPILOGUES)
def test_what_was_tried_once_is_found_again_without_a_trial(kind, untried, monkeypatch):
    given = operands(products.SOME)
    with products.tried():
        made(kind, *given)
    [chosen] = products._chosen.values()
    for rows in ROWS:
        given = operands(rows)
        assert torch.equal(made(kind, *given), expected(kind, *given))
    monkeypatch.setattr(products, "_chosen", {})
    monkeypatch.setattr(products, "fastest", None)
    with products.tried():
        made(kind, *given)  # too few for any way
        made(kind, *operands(products.SOME))
    [again] = products._chosen.values()
    assert (again and again[1]) == (chosen and chosen[1])


def test_a_start_waits_for_few_trials_and_those_of_the_largest_products_and_the_next_one_goes_on(untried, monkeypatch):
    device, now, tried = torch.device("cpu"), [0.0], []
    shapes = [Shape("plain", columns, INNER, torch.float16) for columns in (64, 256, 128)]

    def fastest(product, _):
        tried.append(product.columns)
        now[0] += products.START_SECONDS * 0.6
        return b"way"

    def start() -> list[int]:
        """Columns for which there is a way."""
        products._chosen.clear()
        with products.tried():
            products._seen.update({(device, shape): shape.columns for shape in shapes})
        return [shape.columns for (_, shape), chosen in products._chosen.items() if chosen]

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "card")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(cublaslt, "version", lambda: "1")
    monkeypatch.setattr(products, "Product", lambda shape, device: shape)
    monkeypatch.setattr(products, "fastest", fastest)
    monkeypatch.setattr(products.time, "monotonic", lambda: now[0])
    assert start() == tried == [256, 128]
    assert start() == tried == [256, 128, 64]
    assert start() == [256, 128, 64] and len(tried) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("biased", [False, True])
def test_a_sum_at_once_is_made_only_in_a_chosen_way_and_never_after_all_are_forgotten(biased, untried):
    states, weight, bias, total = operands(products.MANY)
    bias, kind = (bias, "added bias") if biased else (None, "added")
    product, before = cublaslt.Product(Shape(kind, COLUMNS, INNER, torch.float16), states.device), total.clone()
    assert not products.added_at_once(total, states, weight, bias) and not products.any_chosen()
    products._chosen[states.device, product.shape] = product, product.ways(products.MANY)[0]
    assert products.added_at_once(total[None], states[None], weight, bias) and products.any_chosen()
    assert torch.equal(total, expected(kind, states, weight, bias, before))
    products.forget()
    before = total.clone()
    assert not products.added_at_once(total, states, weight, bias) and not products.any_chosen()
    assert torch.equal(total, before)


@pytest.mark.gpu
def test_a_way_that_the_library_refuses_leaves_the_product_to_torch(untried):
    given = operands(products.MANY)
    shape = Shape("plain", COLUMNS, INNER, torch.float16)
    products._chosen[given[0].device, shape] = cublaslt.Product(shape, given[0].device), bytes(64)
    assert torch.equal(made("plain", *given), expected("plain", *given))


@pytest.mark.gpu
def test_what_does_not_lie_row_by_row_is_left_to_torch(untried):
    states, weight, *_ = operands(products.MANY)
    product = cublaslt.Product(Shape("plain", COLUMNS, INNER, torch.float16), states.device)
    products._chosen[states.device, product.shape] = product, product.ways(products.MANY)[0]
    apart = torch.cat([states, states], 1)[:, :INNER]
    across = weight.t().contiguous().t()
    for given in ((apart, weight), (states, across)):
        assert torch.equal(products.linear(*given), torch.nn.functional.linear(states, weight))


@pytest.mark.parametrize("kind", cublaslt.EPILOGUES)
def test_a_cpu_makes_its_products_as_torch_does(kind):
    for rows in ROWS:
        given = operands(rows, torch.float32, "cpu")
        with products.tried():
            assert torch.equal(made(kind, *given), expected(kind, *given))


class Ways:
    """In place of a Product: "exact" ways make what torch makes, "wrong" ones something else, "refused" none."""

    def __init__(self, kind: str, times: dict[bytes, float], monkeypatch):
        self.shape, self.times = Shape(kind, COLUMNS, INNER, torch.float32), times
        monkeypatch.setattr(products, "OUTPUTS", 0)
        monkeypatch.setattr(products, "seconds", self.seconds)

    def ways(self, rows: int) -> list[bytes]:
        return [way for way in self.times if way]

    def run(self, way, states, weight, bias, made) -> bool:
        self.ran = way
        if way.startswith(b"exact"):
            made.copy_(expected(self.shape.kind, states, weight, bias, made))
        return not way.startswith(b"refused")

    def seconds(self, work, runs: int) -> float:
        self.ran = b""
        work()
        return self.times[self.ran]


@pytest.mark.parametrize("kind", cublaslt.EPILOGUES)
@pytest.mark.parametrize(
    ("times", "taken"),
    [
        ({b"": 1.0, b"refused": 0.1, b"wrong": 0.2, b"exact": 0.95, b"exact too": 0.8}, b"exact too"),
        ({b"": 1.0, b"exact": 0.99}, b""),
        ({b"": 1.0, b"wrong": 0.5}, b""),
        ({b"": 1.0}, b""),
        ({b"": 1.0, b"exact": 0.85, b"exact too": 0.8}, b"exact"),
        ({b"": 0.86, b"exact": 0.85, b"exact too": 0.8}, b"exact too"),
        ({b"": 1.0, b"wrong": 0.85, b"exact": 0.9, b"exact too": 0.8}, b"exact too"),
    ],
)
def test_the_first_of_nearly_the_fastest_ways_is_taken_that_makes_the_bits_of_torch(kind, times, taken, monkeypatch):
    assert products.fastest(Ways(kind, times, monkeypatch), torch.device("cpu")) == taken


def test_the_first_way_comes_into_the_last_round_however_many_are_a_little_faster(monkeypatch):
    times = {b"": 1.0, b"exact": 0.88, **{b"exact %d" % number: 0.8 + number / 1000 for number in range(9)}}
    assert products.fastest(Ways("plain", times, monkeypatch), torch.device("cpu")) == b"exact"


def test_no_way_is_timed_before_the_device_has_worked_long_enough_to_be_awake(monkeypatch):
    ways, now, ran = Ways("plain", {b"": 1.0, b"exact": 0.5}, monkeypatch), [0.0], []
    timed = products.seconds

    def seconds(work, runs: int) -> float:
        took = timed(work, runs)
        now[0] += products.AWAKE_SECONDS / 4
        ran.append(ways.ran)
        return took

    monkeypatch.setattr(products, "seconds", seconds)
    monkeypatch.setattr(products.time, "monotonic", lambda: now[0])
    products.fastest(ways, torch.device("cpu"))
    assert ran[:5] == [b""] * 4 + [b"exact"]
