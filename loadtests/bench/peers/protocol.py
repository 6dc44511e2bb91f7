"""The inference protocol as little as it takes, for peers that have none of their own. Needs numpy and orjson.

No validation: a wrong request is an exception, and the server's own 500.
"""

import numpy as np
import orjson

HEADER = "inference-header-content-length"


def read(body, header_length=None):
    """The input tensor, from JSON or from the binary tensor extension; `header_length` as in the request's header."""
    if header_length is None:
        tensor = orjson.loads(body)["inputs"][0]
        return np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
    length = int(header_length)
    tensor = orjson.loads(body[:length])["inputs"][0]
    return np.frombuffer(body, dtype=np.float32, offset=length).reshape(tensor["shape"])


def write(model, name, y):
    """The answer as JSON: outputs here are a few numbers."""
    output = {"name": name, "datatype": "FP32", "shape": list(y.shape), "data": y.ravel()}
    return orjson.dumps({"model_name": model, "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)
