"""Floor 1: all ONNX input and output, and the graph queries."""
