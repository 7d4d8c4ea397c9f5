"""What the commands share: settings, the folder of a run, the trainer, adapters, metrics, results."""
