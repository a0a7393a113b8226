"""Make, tune, use and judge a small team's own instruction-tuned language model."""

import os

# Products on a CPU give the same bits in every process, wherever its memory lies, so that a resumed run equals an
# undisturbed one (Intel MKL's conditional numerical reproducibility). It is read once, when torch is imported.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
os.environ.setdefault("MKL_DYNAMIC", "FALSE")

__version__ = "0.1.0"
