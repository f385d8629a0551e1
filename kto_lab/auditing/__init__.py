"""Which labels to doubt: signals that find wrong thumbs, the rates of error they estimate, and a person's review."""
