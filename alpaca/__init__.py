"""Make, tune, use and judge a small team's own instruction-tuned language model."""

__version__ = "0.1.0"
