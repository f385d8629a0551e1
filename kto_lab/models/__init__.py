"""Models: loading, tokens, completion log-probabilities, generation, adapters."""
