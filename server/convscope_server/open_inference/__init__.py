"""Messages of the Open Inference Protocol v2 to what the server works with, and back."""
