"""From the exports of a product's tools to a table of examples; nothing is left out without a reason."""
