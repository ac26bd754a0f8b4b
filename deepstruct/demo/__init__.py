"""The demonstration: two networks on real digits, pruned step by step and measured from their files."""
