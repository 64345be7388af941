"""The robust half of an RDE fit against plain scikit-learn, in one run.

`MinCovDet` is many small matrix products, for which BLAS threads wait on each other; the detector fits it with one
thread. The peer is the same estimator as it comes.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.covariance import MinCovDet

from harness.detectors.rde import RDE


def main() -> None:
    """Fit one class both ways and print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--components", type=int, default=100)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    features = rng.standard_normal((options.rows, options.components)) * np.linspace(3, 0.1, options.components)
    started = time.perf_counter()
    _, precision = RDE(components=options.components)._estimate(features)
    ours = time.perf_counter() - started
    started = time.perf_counter()
    peer = MinCovDet(random_state=0).fit(features)
    theirs = time.perf_counter() - started
    difference = np.abs(precision - peer.get_precision()).max() / np.abs(precision).max()
    print(
        f"MCD of {options.rows} x {options.components}; largest relative difference of the precisions {difference:.1e}"
    )
    print(f"palimpsest   {ours:8.2f} s")
    print(f"scikit-learn {theirs:8.2f} s")
    print(f"ratio        {theirs / ours:8.1f} x")


if __name__ == "__main__":
    main()
