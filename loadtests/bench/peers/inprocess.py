"""The model's own time: ONNX Runtime in a plain loop, one thread. Arguments: model's name, raw FP32 input, seconds.

Prints one JSON line: runs, seconds, p50_ms, p99_ms.
"""

import json
import sys
import time

import numpy as np
from onnx_model import IMAGE, Session


def main(model, raw, seconds):
    session = Session(model)
    x = np.fromfile(raw, dtype=np.float32).reshape(-1, *IMAGE)
    for _ in range(5):
        session(x)
    took = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        before = time.perf_counter()
        session(x)
        took.append(time.perf_counter() - before)
    total = time.perf_counter() - started
    p50, p99 = np.percentile(took, [50, 99]) * 1e3
    print(json.dumps({"runs": len(took), "seconds": total, "p50_ms": p50, "p99_ms": p99}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
