"""The paper's experiments, each a command. Only the command line imports them."""

__all__ = [
    "adapter_study",
    "benchmark",
    "chromatin",
    "few_shot",
    "report",
    "species",
]
