"""One token per base."""
