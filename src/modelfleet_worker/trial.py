"""`python -m modelfleet_worker.trial ARGS...`: a worker that ends with whoever started it.

The same process as `python -m modelfleet_worker ARGS...`, for trials beside serving.
"""

from __future__ import annotations

import os

from modelfleet_worker.__main__ import _arguments
from modelfleet_worker.batch import end_with
from modelfleet_worker.process import main

if __name__ == "__main__":
    end_with(os.getppid())
    main(_arguments())
