"""Floor 6: the oracle. A pruned model must equal the masked original."""
