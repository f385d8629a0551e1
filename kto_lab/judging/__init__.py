"""From prompts and answers to scores: reward models, and language models that are asked."""
