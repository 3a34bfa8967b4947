"""Generated from proto/inference/*.proto by `make proto`; never edited."""
