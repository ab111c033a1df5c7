"""From a saved folder to what people serve: ONNX and OpenVINO, int8 and float16, measured in turn with the original."""
