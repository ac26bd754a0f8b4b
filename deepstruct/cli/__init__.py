"""The command line: `deepstruct analyze | plugins | doctor | demo`, and what plugins add."""
