"""The gRPC service: class scores and feature maps of ONNX models, with ONNX Runtime."""
