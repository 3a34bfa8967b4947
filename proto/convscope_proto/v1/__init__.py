"""Generated from proto/convscope/v1/classifier.proto by `make proto`; never edited."""
