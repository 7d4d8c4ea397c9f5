"""Recipes: labelled data, metrics, fine-tuning, the demo and the command line `hyenadna`."""
