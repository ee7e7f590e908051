"""How fast this machine multiplies matrices: `torch.mm` into a buffer that is there already, and nothing around it."""

from __future__ import annotations

import statistics
import time
from collections import Counter

import torch

from benchmarks.model_shape import Product

SQUARE = Product(2_048, 2_048, 2_048)
NUM_TIMES = 3


@torch.inference_mode()
def seconds_of(product: Product) -> float:
    """Returns the median processor time of one product, in seconds."""
    left, right = torch.randn(product.m, product.k), torch.randn(product.k, product.n)
    out = torch.empty(product.m, product.n)
    torch.mm(left, right, out=out)  # touches the buffer's pages
    durations = []
    for _ in range(NUM_TIMES):
        started = time.process_time()
        torch.mm(left, right, out=out)
        durations.append(time.process_time() - started)
    return statistics.median(durations)


def flop_per_s(products: Counter[Product]) -> float:
    """Returns the rate over products that occur so often each: all operations over all time."""
    flop = sum(product.flop * times for product, times in products.items())
    return flop / sum(seconds_of(product) * times for product, times in products.items())
