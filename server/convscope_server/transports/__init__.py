"""What carries calls to the dispatcher: one module each."""
