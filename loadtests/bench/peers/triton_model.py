"""Triton's Python backend: the same ONNX Runtime session as everywhere, one run for each dynamic batch."""

import json

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.output = config["output"][0]["name"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = config["parameters"]["onnx"]["string_value"]
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        whole = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        answer = self.session.run(None, {"x": whole})[0]
        responses, start = [], 0
        for rows in map(len, inputs):
            tensor = pb_utils.Tensor(self.output, answer[start : start + rows])
            responses.append(pb_utils.InferenceResponse(output_tensors=[tensor]))
            start += rows
        return responses
