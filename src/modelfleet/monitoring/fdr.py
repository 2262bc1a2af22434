"""Of many tests at once, which may we believe? (false discovery control)

Benjamini and Hochberg (1995) over all m tests of one window, every model x feature: sort p,
k = max{i : p_(i) <= q*i/m}, alarm all p <= p_(k). On average at most a share q of the alarms is
false. Inconclusive tests (NaN) are no tests: they don't count into m.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def benjamini_hochberg(p: NDArray[np.float64], q: float) -> NDArray[np.bool_]:
    """Which tests alarm, in the order of `p`."""
    alarms = np.zeros(p.shape, dtype=np.bool_)
    tested = np.flatnonzero(~np.isnan(p))
    if tested.size == 0:
        return alarms
    ordered = np.sort(p[tested])
    below = np.flatnonzero(ordered <= q * np.arange(1, tested.size + 1) / tested.size)
    if below.size:
        alarms[tested] = p[tested] <= ordered[below[-1]]
    return alarms
