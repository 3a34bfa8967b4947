"""The convscope wire contract: generated messages and stubs, and the Tensor codec."""
