"""Experiments: recipes, how they are run, what they left in the ledger."""
