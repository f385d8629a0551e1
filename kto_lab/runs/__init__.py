"""One folder, one run: train, evaluate; its record, identity, claim and lease."""
