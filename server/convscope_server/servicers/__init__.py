"""The services, written against call.Call: whatever transport carries them."""
