"""kto-lab: alignment from thumbs-up / thumbs-down, done as reproducible science."""

__version__ = "0.1.0"
