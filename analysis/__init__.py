"""What a trained model says: likelihoods, effects of variants, embeddings and their picture."""
