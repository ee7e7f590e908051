"""`python -m worker` whose updates score every prompt of a minibatch, repeated ones as well; for comparison.

HINTWISE_DEDUPLICATE=false HINTWISE_MAX_CACHED_ANSWERS=0 python -m benchmarks.forgetful_worker train ...
"""

from __future__ import annotations

import sys

from hintwise.scoring import score_distinct
from worker.__main__ import main
from worker.algorithms import ppo

ppo.score = score_distinct  # type: ignore[attr-defined] # what it imported under that name

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
