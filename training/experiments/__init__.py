"""The experiments of the paper and what compares them. Nothing imports this room but the command line."""
