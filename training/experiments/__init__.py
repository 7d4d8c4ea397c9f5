"""The paper's experiments, each a command. Nothing imports them but the command line."""

__all__ = [
    "adapter_study",
    "benchmark",
    "chromatin",
    "few_shot",
    "report",
    "species",
]
