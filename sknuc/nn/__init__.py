"""Shared torch blocks: tensors only."""
