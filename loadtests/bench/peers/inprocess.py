"""The model's own time: ONNX Runtime in a plain loop, one thread. Arguments: model, raw FP32 input, seconds.

Prints one JSON line: runs, seconds, p50_ms, p99_ms.
"""

import json
import sys
import time

import numpy as np
import onnxruntime


def main(model, raw, seconds):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x = np.fromfile(raw, dtype=np.float32).reshape(-1, 3, 224, 224)
    for _ in range(5):
        session.run(None, {"x": x})
    took = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        before = time.perf_counter()
        session.run(None, {"x": x})
        took.append(time.perf_counter() - before)
    total = time.perf_counter() - started
    p50, p99 = np.percentile(took, [50, 99]) * 1e3
    print(json.dumps({"runs": len(took), "seconds": total, "p50_ms": p50, "p99_ms": p99}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
