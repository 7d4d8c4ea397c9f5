"""HyenaDNA for Transformers."""
