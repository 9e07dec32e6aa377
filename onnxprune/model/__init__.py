"""All ONNX input and output: reading, checking, writing, running, and the queries on a graph."""
