"""The convscope command and the sub-commands that need only the client."""
