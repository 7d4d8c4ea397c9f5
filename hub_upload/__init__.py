"""From a trained model to a repository that anyone can load: export, model card, push, verify."""
