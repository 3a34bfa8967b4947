"""Architecture notation, training, ONNX export and verification of ConvNets.

Shares nothing with the server but the model file (docs/model-file.md).
"""
