"""Files of a graph: ONNX, StableHLO, and packed sparse weights."""
